// The gated delta rule in chunks of tokens, second part: the state goes from chunk to chunk. A thread group takes TILE
// elements of a head's values, that is TILE lines of its state, through all chunks.
//   queries, keys (rows, tokens, key_heads, KEY_DIM); values, delta_out (rows, tokens, heads, VALUE_DIM)
//   inverses, pairs, factors: from delta_prepare.h; state, next_state (rows, heads, VALUE_DIM, KEY_DIM)
// With S the state before a chunk, K and Q its keys and queries as lines, V its values as columns:
//   updates = inverse (beta * (V - decay since the start * K S)); out = decay since the start * Q S + pairs updates
//   next state = decay of the chunk * S + (decay until the end * updates) K
// How matrices and state lie: scan_state.h. COPIES: queries and keys of the next chunk arrive during the products with
// this chunk's inverse and pairs, and those while the state is multiplied.
constexpr int KEYS_EXACT = sizeof(T) == 2 ? 1 : 0;
const int num_tokens = keys_shape[1];
const int num_key_heads = keys_shape[2];
const int num_heads = values_shape[2];
const int num_chunks = (num_tokens + CHUNK - 1) / CHUNK;
const int row = GROUP_Y / num_heads;
const int head = GROUP_Y % num_heads;
const int key_head = head / (num_heads / num_key_heads);
const int first_value = GROUP_X * TILE;

#define FLOATS (TILE * STATE_PITCH + 2 * CHUNK * MATRIX_PITCH + 2 * TILE * VALUE_PITCH + 6 * CHUNK)
WORKSPACE(float, workspace, FLOATS + 3 * CHUNK * KEY_PITCH * int(sizeof(T)) / 4);
#define INVERSE (workspace + TILE * STATE_PITCH)
#define PAIRS (INVERSE + CHUNK * MATRIX_PITCH)
#define RESTS (PAIRS + CHUNK * MATRIX_PITCH)  // what is left of the values when the state has been read
#define UPDATES (RESTS + TILE * VALUE_PITCH)
#define FACTORS(chunk) (UPDATES + TILE * VALUE_PITCH + (chunk) % 2 * 3 * CHUNK)
#define STAGED_QUERIES ((T*)(workspace + FLOATS))
#define STAGED_KEYS(chunk) (STAGED_QUERIES + (1 + (chunk) % 2) * CHUNK * KEY_PITCH)

PRIVATE(float, kept, STATE_BLOCKS * ROW_TILES * 16);
PRIVATE(float, rest, COLUMN_TILES * 4);
PRIVATE(float, result, COLUMN_TILES * 4);
PRIVATE(float, value, COLUMN_TILES * 4);
PRIVATE(float, left, ROW_TILES * 8);
PRIVATE(float, right, 16);
PRIVATE(float, other, 4);

#define STAGE_TOKENS(chunk)                                                                                           \
  for (int piece = TID; piece < CHUNK * (KEY_DIM / VECTOR_SIZE); piece += THREADS) {                                  \
    const int i = piece / (KEY_DIM / VECTOR_SIZE), element = piece % (KEY_DIM / VECTOR_SIZE) * VECTOR_SIZE;           \
    const INDEX token = INDEX(row) * num_tokens + TOKEN_AT((chunk) * CHUNK + i);                                      \
    const INDEX from = (token * num_key_heads + key_head) * KEY_DIM + element;                                        \
    COPY_PIECE(STAGED_KEYS(chunk) + i * KEY_PITCH + element, keys + from, VECTOR_SIZE);                               \
    COPY_PIECE(STAGED_QUERIES + i * KEY_PITCH + element, queries + from, VECTOR_SIZE);                                \
  }                                                                                                                   \
  STAGE_FACTORS(chunk)
#define STAGE_MATRICES(chunk)                                                                                        \
  for (int piece = TID; piece < CHUNK * CHUNK / 4; piece += THREADS) {                                               \
    const INDEX from = (INDEX(GROUP_Y) * num_chunks + (chunk)) * CHUNK * CHUNK + 4 * piece;                          \
    const int to = piece / (CHUNK / 4) * MATRIX_PITCH + piece % (CHUNK / 4) * 4;                                     \
    COPY_PIECE(INVERSE + to, inverses + from, 4);                                                                    \
    COPY_PIECE(PAIRS + to, pairs + from, 4);                                                                         \
  }

EACH_THREAD {
  LOAD_STATE
  COPY_STATE
  STAGE_TOKENS(0)
}

for (int chunk = 0; chunk < num_chunks; ++chunk) {
  COPIES_DONE;
  BARRIER;
  EACH_THREAD {
    STAGE_MATRICES(chunk)
    UNROLL for (int n = 0; n < COLUMN_TILES; ++n) {
      UNROLL for (int e = 0; e < 2; ++e) {
        const int token = TOKEN_AT(chunk * CHUNK + TILE_TOKEN(n) + PAIR_COLUMN + e);
        const int v = first_value + FIRST_LINE + 2 * PAIR_ROW;
        Pack<T, 2> both = {{T(0.0f), T(0.0f)}};
        if (v < VALUE_DIM) both = *(const DEVICE Pack<T, 2>*)(values + VALUE_AT(token, v));
        MY(value)[4 * n + e] = float(both.at[0]);
        MY(value)[4 * n + 2 + e] = float(both.at[1]);
      }
      UNROLL for (int e = 0; e < 4; ++e) MY(rest)[4 * n + e] = MY(result)[4 * n + e] = 0;
    }
  }
  UNROLL for (int k = 0; k < KEY_DIM; k += 16) {
    EACH_THREAD { LOAD_LINES(0, workspace, STATE_PITCH, FIRST_LINE, k) }
    UNROLL for (int n = 0; n < COLUMN_TILES; ++n) {
      EACH_THREAD {
        const int at = (TILE_TOKEN(n) + PAIR_ROW) * KEY_PITCH + k + 2 * PAIR_COLUMN;
        const Pack<T, 4> key = *(const Pack<T, 4>*)(STAGED_KEYS(chunk) + at);
        const Pack<T, 4> query = *(const Pack<T, 4>*)(STAGED_QUERIES + at);
        UNROLL for (int e = 0; e < 4; ++e) {
          MY(right)[e] = float(key.at[e]);
          MY(other)[e] = float(query.at[e]);
        }
      }
      UNROLL for (int s = 0; s < 2; ++s) {
        MULTIPLY_FLOATS(rest, 4 * n, left, 4 * s, right, 2 * s, KEYS_EXACT);
        MULTIPLY_FLOATS(result, 4 * n, left, 4 * s, other, 2 * s, KEYS_EXACT);
      }
    }
  }
  EACH_THREAD {
    UNROLL for (int n = 0; n < COLUMN_TILES; ++n) {
      UNROLL for (int e = 0; e < 4; ++e) {
        const int i = TILE_TOKEN(n) + PAIR_COLUMN + e % 2;
        const float since = FACTORS(chunk)[i], beta = FACTORS(chunk)[2 * CHUNK + i];
        const float left_over = beta * (MY(value)[4 * n + e] - since * MY(rest)[4 * n + e]);
        RESTS[(FIRST_LINE + 2 * PAIR_ROW + e / 2) * VALUE_PITCH + i] = left_over;
        MY(result)[4 * n + e] *= since;
        MY(rest)[4 * n + e] = 0;
      }
    }
  }
  COPIES_DONE;
  BARRIER;
  EACH_THREAD {
    if (chunk + 1 < num_chunks) {
      STAGE_TOKENS(chunk + 1)
    }
  }
  UNROLL for (int k = 0; k < CHUNK; k += 16) {
    EACH_THREAD { LOAD_LINES(0, RESTS, VALUE_PITCH, FIRST_LINE, k) }
    UNROLL for (int n = FIRST_TILE(k); n < COLUMN_TILES; ++n) {
      EACH_THREAD {
        const Pack<float, 4> piece = FOUR_AT(INVERSE + (TILE_TOKEN(n) + PAIR_ROW) * MATRIX_PITCH + k + 2 * PAIR_COLUMN);
        UNROLL for (int e = 0; e < 4; ++e) MY(right)[e] = piece.at[e];
      }
      UNROLL for (int s = 0; s < 2; ++s) MULTIPLY_FLOATS(rest, 4 * n, left, 4 * s, right, 2 * s, 0);
    }
  }
  EACH_THREAD {
    UNROLL for (int n = 0; n < COLUMN_TILES; ++n) {
      UNROLL for (int e = 0; e < 4; ++e) {
        const int place = COLUMN_PLACE(TILE_TOKEN(n) + PAIR_COLUMN + e % 2);
        UPDATES[(FIRST_LINE + 2 * PAIR_ROW + e / 2) * VALUE_PITCH + place] = MY(rest)[4 * n + e];
      }
    }
    const float decay = FACTORS(chunk)[CHUNK - 1];
    UNROLL for (int i = 0; i < STATE_BLOCKS * ROW_TILES * 16; ++i) MY(kept)[i] *= decay;
  }
  BARRIER;
  UNROLL for (int k = 0; k < CHUNK; k += 16) {
    EACH_THREAD { LOAD_LINES(0, UPDATES, VALUE_PITCH, FIRST_LINE, k) }
    UNROLL for (int n = FIRST_TILE(k); n < COLUMN_TILES; ++n) {
      EACH_THREAD {
        const Pack<float, 4> piece = FOUR_AT(PAIRS + (TILE_TOKEN(n) + PAIR_ROW) * MATRIX_PITCH + k + 2 * PAIR_COLUMN);
        UNROLL for (int e = 0; e < 4; ++e) MY(right)[e] = piece.at[e];
      }
      UNROLL for (int s = 0; s < 2; ++s) MULTIPLY_FLOATS(result, 4 * n, left, 4 * s, right, 2 * s, 0);
    }
  }
  EACH_THREAD {
    UNROLL for (int n = 0; n < COLUMN_TILES; ++n) {
      UNROLL for (int e = 0; e < 2; ++e) {
        const int token = chunk * CHUNK + TILE_TOKEN(n) + PAIR_COLUMN + e;
        const int v = first_value + FIRST_LINE + 2 * PAIR_ROW;
        if (token < num_tokens && v < VALUE_DIM) {
          const Pack<T, 2> both = {{T(MY(result)[4 * n + e]), T(MY(result)[4 * n + 2 + e])}};
          *(DEVICE Pack<T, 2>*)(delta_out + VALUE_AT(token, v)) = both;
        }
      }
    }
  }
  UNROLL for (int k = 0; k < CHUNK; k += 16) {
    EACH_THREAD {
      UNROLL for (int m = 0; m < ROW_TILES; ++m) {
        LOAD_LINES(8 * m, UPDATES, VALUE_PITCH, 16 * m, k)
      }
      UNROLL for (int e = 0; e < 4; ++e) {
        const float until = FACTORS(chunk)[CHUNK + k + PAIR_COLUMN / 2 + 4 * e];
        UNROLL for (int m = 0; m < ROW_TILES; ++m) {
          UNROLL for (int h = 0; h < 2; ++h) MY(left)[8 * m + e / 2 * 4 + e % 2 * 2 + h] *= until;
        }
      }
    }
    UNROLL for (int b = 0; b < STATE_BLOCKS; ++b) {
      EACH_THREAD {
        const int block = WARP + 4 * b < KEY_DIM / 32 ? WARP + 4 * b : 0;  // the result of the last ones is not used
        UNROLL for (int e = 0; e < 4; ++e) {
          const int token = k + PAIR_COLUMN / 2 + 4 * e;
          const Pack<T, 4> key =
              *(const Pack<T, 4>*)(STAGED_KEYS(chunk) + token * KEY_PITCH + 32 * block + 4 * PAIR_ROW);
          UNROLL for (int j = 0; j < 4; ++j) MY(right)[4 * j + e] = float(key.at[j]);
        }
      }
      UNROLL for (int m = 0; m < ROW_TILES; ++m) {
        UNROLL for (int j = 0; j < 4; ++j) {
          UNROLL for (int s = 0; s < 2; ++s) {
            MULTIPLY_FLOATS(kept, ((b * ROW_TILES + m) * 4 + j) * 4, left, 8 * m + 4 * s, right, 4 * j + 2 * s, KEYS_EXACT);
          }
        }
      }
    }
  }
  EACH_THREAD { COPY_STATE }
}
EACH_THREAD {
  STORE_STATE
}
