// What delta_scan.h and ssm_scan.h share: a thread group takes TILE lines of a head's state from chunk to chunk.
// A thread keeps its part of the state in registers; shared memory has a copy for the products of the next chunk.
//
// MATRICES. Left operands have a line for each element of the values: lines 2 PAIR_ROW and 2 PAIR_ROW + 1 stand for rows
// PAIR_ROW and PAIR_ROW + 8 of the product, so that a thread's results are neighbours. Of the inner dimension a thread
// holds four elements that are neighbours in memory, for two products. In the last product these are tokens t, t + 4,
// t + 8 and t + 12 of 16: the rows of the keys then lie in different banks, and COLUMN_PLACE puts the updates in order.
constexpr int ROW_TILES = TILE / 16;
constexpr int COLUMN_WARPS = 4 / ROW_TILES;
constexpr int COLUMN_TILES = 2 * ROW_TILES;  // of a warp's 8 tokens each
constexpr int STATE_BLOCKS = (KEY_DIM / 32 + 3) / 4;  // of 32 columns of the state, for each warp
constexpr int MATRIX_PITCH = CHUNK + 16;
constexpr int VALUE_PITCH = CHUNK + 8;
constexpr int STATE_PITCH = KEY_DIM + 8;
#define TOKEN_AT(i) ((i) < num_tokens ? (i) : num_tokens - 1)
#define VALUE_AT(i, v) (((INDEX(row) * num_tokens + (i)) * num_heads + head) * VALUE_DIM + (v))
#define STATE_AT(v, d) ((INDEX(GROUP_Y) * VALUE_DIM + (v)) * KEY_DIM + (d))

#define WARP (TID / 32)
#define FIRST_LINE (WARP % ROW_TILES * 16)  // of a warp's left operand
#define TILE_TOKEN(n) (8 * ((n) * COLUMN_WARPS + WARP / ROW_TILES))
#define FIRST_TILE(k) ((k) / (8 * COLUMN_WARPS))  // that sees tokens from k on

#define STAGE_FACTORS(chunk)                                                                                          \
  if (TID < 3 * CHUNK / 4) {                                                                                          \
    COPY_PIECE(FACTORS(chunk) + 4 * TID, factors + (INDEX(GROUP_Y) * num_chunks + (chunk)) * 3 * CHUNK + 4 * TID, 4); \
  }
// A thread's four elements of two lines from `line` on, as the left operands of two products.
#define LOAD_LINES(to, source, pitch, line, k)                                                                      \
  UNROLL for (int h = 0; h < 2; ++h) {                                                                              \
    const Pack<float, 4> piece = FOUR_AT((source) + ((line) + 2 * PAIR_ROW + h) * (pitch) + (k) + 2 * PAIR_COLUMN); \
    UNROLL for (int e = 0; e < 4; ++e) MY(left)[(to) + e / 2 * 4 + e % 2 * 2 + h] = piece.at[e];                    \
  }
// A thread's part of the state: tiles j of 4, elements e of 4; rows and columns of the pieces of 4 that lie together.
#define EACH_PIECE                                              \
  UNROLL for (int b = 0; b < STATE_BLOCKS; ++b)                 \
  UNROLL for (int m = 0; m < ROW_TILES; ++m)                    \
  UNROLL for (int e = 0; e < 4; ++e)                            \
  if (WARP + 4 * b < KEY_DIM / 32)
#define PIECE_LINE (16 * m + 2 * PAIR_ROW + e / 2)
#define PIECE_COLUMN (32 * (WARP + 4 * b) + 4 * PAIR_COLUMN + 4 * (e % 2))
#define PIECE_AT(j) (((b * ROW_TILES + m) * 4 + (j)) * 4 + e)
#define COPY_STATE                                                             \
  EACH_PIECE {                                                                 \
    Pack<float, 4> piece;                                                      \
    UNROLL for (int j = 0; j < 4; ++j) piece.at[j] = MY(kept)[PIECE_AT(j)];    \
    PUT_FOUR(workspace + PIECE_LINE * STATE_PITCH + PIECE_COLUMN, piece);      \
  }
#define LOAD_STATE                                                                                       \
  EACH_PIECE {                                                                                           \
    Pack<float, 4> piece = {{0, 0, 0, 0}};                                                               \
    if (first_value + PIECE_LINE < VALUE_DIM) {                                                          \
      piece = *(const DEVICE Pack<float, 4>*)(state + STATE_AT(first_value + PIECE_LINE, PIECE_COLUMN)); \
    }                                                                                                    \
    UNROLL for (int j = 0; j < 4; ++j) MY(kept)[PIECE_AT(j)] = piece.at[j];                              \
  }
#define STORE_STATE                                                                                     \
  EACH_PIECE {                                                                                          \
    Pack<float, 4> piece;                                                                               \
    UNROLL for (int j = 0; j < 4; ++j) piece.at[j] = MY(kept)[PIECE_AT(j)];                             \
    if (first_value + PIECE_LINE < VALUE_DIM) {                                                         \
      *(DEVICE Pack<float, 4>*)(next_state + STATE_AT(first_value + PIECE_LINE, PIECE_COLUMN)) = piece; \
    }                                                                                                   \
  }
