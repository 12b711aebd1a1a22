// Before tiles.h, where a tile is a split of one decode row: stores the row's newest key, if the tile reads it. The row is
// the tile's first query, whose limit comes after its newest token. Values lie in keys.
//   new_keys (rows, kv_heads, 1, DIM)
EACH_THREAD {
  typedef PoolRow<T, DIM, BITS, UNIT, VECTOR> Stored;
  const int tile = GROUP_X * (TILE_COLUMNS + 2 * TILE_QUERIES);
  const int row = tiles[tile + TILE_COLUMNS], newest = tiles[tile + TILE_COLUMNS + 1] - 1;
  // Every thread group that reads the newest token stores it first, and all store the same.
  if (newest >= tiles[tile + TILE_FIRST] && newest < tiles[tile + TILE_END]) {
    const int kv_head = GROUP_Y / HEAD_TILES;
    const int block = block_table[INDEX(tiles[tile + TILE_ROW]) * block_table_shape[1] + newest / BLOCK];
    const INDEX from = (INDEX(row) * keys_shape[0] + kv_head) * DIM;
    const INDEX to = INDEX(kv_head) * keys_shape[1] + block * BLOCK + newest % BLOCK;
    for (int unit = TID; unit < Stored::STORE_UNITS; unit += THREADS) {
      Stored::store((DEVICE typename Stored::Item*)keys, to, new_keys + from, unit);
    }
  }
}
BARRIER_DEVICE;
