from pensieve.cache.kv import MIN_KERNEL_ELEMENTS
from pensieve.engine.attention.kernels import decode_tables
from pensieve.engine.attention.kernels.decode_tables import make_decode_tables
from pensieve.engine.attention.kernels.tables import LayerKind, PartialColumn, SplitColumn
from pensieve.engine.attention.shared_prefixes import shared_prefixes
from pensieve.engine.step import SlotRange


def test_uneven_rows_are_cut_into_even_splits() -> None:
    slot_ranges: list[tuple[SlotRange, ...]] = [
        ((0, 131_072),),
        ((131_072, 131_073),),
        ((140_000 // 32 * 32, 145_000),),
    ]
    laid_out = make_decode_tables(slot_ranges, shared_prefixes(slot_ranges), LayerKind(8, 8, 16))
    splits, query_partials = laid_out.splits, laid_out.query_partials[: len(slot_ranges)]
    sizes = splits[:, SplitColumn.END] - splits[:, SplitColumn.FIRST]
    num_splits = query_partials[-1, PartialColumn.END_SPLIT]
    assert not splits[num_splits:].any(), "empty splits fill the table"
    assert sizes[:num_splits].min() == 1
    assert sizes.max() == decode_tables.MIN_SPLIT
    assert len(splits) < 1.15 * num_splits
    for row, (first, end) in enumerate(query_partials[:, : PartialColumn.TILES].tolist()):
        assert set(splits[first:end, SplitColumn.ROW].tolist()) == {row}


def test_no_table_is_too_small_for_a_kernel() -> None:
    """Inputs of fewer elements come in another address space."""
    slot_ranges: list[tuple[SlotRange, ...]] = [((0, 5),)]
    laid_out = make_decode_tables(slot_ranges, shared_prefixes(slot_ranges), LayerKind(1, 1, 16))
    for table in (laid_out.block_table, laid_out.splits, laid_out.query_partials):
        assert table.size >= MIN_KERNEL_ELEMENTS


def test_layouts_come_again_while_rows_grow() -> None:
    layouts = set()
    for length in range(2000, 6000, 7):
        slot_ranges: list[tuple[SlotRange, ...]] = [
            ((0, 1024), (1024 + row * 8192, row * 8192 + length)) for row in range(5)
        ]
        layouts.add(
            make_decode_tables(
                slot_ranges, shared_prefixes(slot_ranges), LayerKind(8, 8, 16), num_rows=6
            ).layout
        )
    assert len(layouts) < 20
