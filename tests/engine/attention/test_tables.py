from pensieve.engine.attention.kernels import tables
from pensieve.engine.attention.kernels.tables import make_tables
from pensieve.engine.attention.shared_prefixes import shared_prefixes
from pensieve.engine.step import SlotRange


def test_uneven_rows_are_cut_into_even_items() -> None:
    slot_ranges: list[tuple[SlotRange, ...]] = [
        ((0, 131_072),),
        ((131_072, 131_073),),
        ((140_000 // 32 * 32, 145_000),),
    ]
    laid_out = make_tables(slot_ranges, shared_prefixes(slot_ranges), 8)
    sizes = laid_out.items[:, 2] - laid_out.items[:, 1]
    assert not laid_out.items[laid_out.ranges[-1, 1] :].any(), "empty items fill the table"
    assert sizes[: laid_out.ranges[-1, 1]].min() == 1
    assert sizes.max() == tables.MIN_SPLIT
    assert len(laid_out.items) < 1.15 * laid_out.ranges[-1, 1]
    for row, (begin, end) in enumerate(laid_out.ranges[:, :2].tolist()):
        assert set(laid_out.items[begin:end, 0].tolist()) == {row}


def test_layouts_come_again_while_rows_grow() -> None:
    layouts = set()
    for length in range(2000, 6000, 7):
        slot_ranges: list[tuple[SlotRange, ...]] = [
            ((0, 1024), (1024 + row * 8192, row * 8192 + length)) for row in range(5)
        ]
        layouts.add(make_tables(slot_ranges, shared_prefixes(slot_ranges), 8, num_rows=6).layout)
    assert len(layouts) < 20
