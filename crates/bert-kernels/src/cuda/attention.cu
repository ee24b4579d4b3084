// Scaled dot-product attention with an online softmax: no scores are stored. Dao 2023,
// FlashAttention-2.
#include "device.cuh"

// Consecutive queries of one sequence, and the keys that they attend to.
struct Tile {
    uint32_t query_row, queries, key_row, keys;
    uint32_t batch, query;  // where the first of them stands in the bias
};

// Matrices as they come from linear maps: a row for each token, the heads side by side. Strides are
// in numbers.
struct Attention {
    const void *q, *k, *v;
    void* out;
    uint32_t q_stride, k_stride, v_stride, out_stride;
    const Tile* tiles;  // null: `batch` sequences of the same `queries` and `keys`, tile by tile
    uint32_t tile_queries, queries, keys;
    uint32_t head_size;
    float scale;
    const float* bias;  // added to scores; null if there is none. Neighboring keys are neighbors.
    size_t bias_batch, bias_head, bias_query;

    __device__ __forceinline__ Tile tile(uint32_t i) const {
        if (tiles) return tiles[i];
        const uint32_t per_sequence = (queries + tile_queries - 1) / tile_queries;
        const uint32_t sequence = i / per_sequence, first = i % per_sequence * tile_queries;
        return {sequence * queries + first,
                min(tile_queries, queries - first),
                sequence * keys,
                keys,
                sequence,
                first};
    }
    // Of a head and a query of a tile.
    __device__ __forceinline__ const float* bias_row(const Tile& tile, uint32_t head,
                                                     uint32_t query) const {
        return bias + tile.batch * bias_batch + head * bias_head +
               (tile.query + query) * bias_query;
    }
};

// The least float. A score that a mask hides is this number exactly, so that a query that sees no
// key attends to all of them equally. −∞ in a bias counts as this too. Keys beyond the end are −∞.
constexpr float MASKED = -3.40282347e38f, LOG2_E = 1.44269504f;
__device__ __forceinline__ float at_least_masked(float score) {
    return score < MASKED ? MASKED : score;
}

// Rows of D numbers of 16 bits in shared memory, in chunks of 16 bytes that are exchanged within a
// row so that ldmatrix meets no bank twice.
template <class T, int D>
__device__ __forceinline__ T* chunk_at(T* rows, uint32_t row, uint32_t chunk) {
    constexpr uint32_t CHUNKS = D / 8;
    const uint32_t exchanged = CHUNKS == 4 ? chunk ^ (row / 2 & 3) : chunk ^ (row & 7);
    return rows + (row * CHUNKS + exchanged) * 8;
}

// The block copies ROWS rows to shared memory asynchronously; zeros for rows and chunks that are
// not there, because zero times whatever lies in memory may be NaN.
template <class T, int D, int ROWS>
__device__ __forceinline__ void copy_rows(T* to, const T* from, uint32_t stride, uint32_t rows,
                                          uint32_t chunks) {
    for (uint32_t i = threadIdx.x; i < ROWS * D / 8; i += blockDim.x) {
        const uint32_t row = i / (D / 8), chunk = i % (D / 8);
        const bool there = row < rows && chunk < chunks;
        copy16(chunk_at<T, D>(to, row, chunk),
               there ? from + (size_t)row * stride + chunk * 8 : from, there);
    }
}

// The block computes a tile of at most WARPS * 16 queries of one head, 64 keys at a time; each warp
// has 16 queries. Head sizes are multiples of 8 up to D, rows begin at 16 bytes.
//
// In the accumulators of mma.m16n8k16, a lane has rows lane / 4 and lane / 4 + 8, and of every 8
// columns the two from lane % 4 * 2 on. Those of two neighboring scores are laid out as its first
// operand is, so the probabilities go from registers into the product with V.
template <class T, int D, int WARPS, bool BIAS>
__device__ __forceinline__ void attend(const Attention& a) {
    constexpr int KEYS = 64, QUERIES = WARPS * 16;
    SHARED(shared);
    T* const q = reinterpret_cast<T*>(shared);
    T* const k = q + QUERIES * D;
    T* const v = k + 2 * KEYS * D;
    const Tile tile = a.tile(blockIdx.x);
    const uint32_t head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32,
                   chunks = a.head_size / 8;
    const size_t column = (size_t)head * a.head_size;
    const T* const keys = static_cast<const T*>(a.k) + (size_t)tile.key_row * a.k_stride + column;
    const T* const values = static_cast<const T*>(a.v) + (size_t)tile.key_row * a.v_stride + column;
    const auto copy_keys = [&](uint32_t first, uint32_t stage) {
        const uint32_t left = min(tile.keys - first, (uint32_t)KEYS);
        copy_rows<T, D, KEYS>(k + stage * KEYS * D, keys + (size_t)first * a.k_stride, a.k_stride,
                              left, chunks);
        copy_rows<T, D, KEYS>(v + stage * KEYS * D, values + (size_t)first * a.v_stride, a.v_stride,
                              left, chunks);
        commit_copies();
    };
    const T* const queries =
        static_cast<const T*>(a.q) + (size_t)tile.query_row * a.q_stride + column;
    copy_rows<T, D, QUERIES>(q, queries, a.q_stride, tile.queries, chunks);
    copy_keys(0, 0);

    uint32_t q_fragments[D / 16][4];
    float out[D / 8][4] = {};
    float row_max[2] = {-INFINITY, -INFINITY}, row_sum[2] = {0, 0};  // for the lane's two rows
    for (uint32_t first = 0, stage = 0; first < tile.keys; first += KEYS, stage ^= 1) {
        // The next copies overwrite what all warps have finished with.
        wait_copies<0>();
        __syncthreads();
        if (first == 0 && warp * 16 < tile.queries)
            for (int d = 0; d < D / 16; d++)
                load_matrices(q_fragments[d],
                              chunk_at<T, D>(q, warp * 16 + lane % 16, d * 2 + lane / 16));
        if (first + KEYS < tile.keys) copy_keys(first + KEYS, stage ^ 1);
        if (warp * 16 >= tile.queries) continue;  // It has no queries, only copies.

        float scores[KEYS / 8][4] = {};
        const T* const k_now = k + stage * KEYS * D;
#pragma unroll
        for (int d = 0; d < D / 16; d++)
#pragma unroll
            for (int j = 0; j < KEYS / 8; j += 2) {
                uint32_t b[4];
                load_matrices(b, chunk_at<const T, D>(k_now, (j + lane / 16) * 8 + lane % 8,
                                                      d * 2 + lane / 8 % 2));
                multiply<T>(scores[j], q_fragments[d], b[0], b[1]);
                multiply<T>(scores[j + 1], q_fragments[d], b[2], b[3]);
            }

        // Scores in natural units with a bias (MASKED times log₂ e would be −∞), in units of ln 2
        // without.
        const float unit = BIAS ? a.scale : a.scale * LOG2_E, to_log2 = BIAS ? LOG2_E : 1;
        const auto key_of = [&](int j, int i) { return first + j * 8 + lane % 4 * 2 + i % 2; };
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t key = key_of(j, i), query = warp * 16 + lane / 4 + i / 2 * 8;
                scores[j][i] *= unit;
                if (BIAS && key < tile.keys && query < tile.queries) {
                    const float bias = a.bias_row(tile, head, query)[key];
                    scores[j][i] = at_least_masked(scores[j][i] + bias);
                }
            }
        if (first + KEYS > tile.keys) {
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (key_of(j, i) >= tile.keys) scores[j][i] = -INFINITY;
        }
        float new_max[2] = {row_max[0], row_max[1]};
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) new_max[i / 2] = fmaxf(new_max[i / 2], scores[j][i]);
        float rescale[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            for (int mask = 1; mask < 4; mask *= 2)
                new_max[r] = fmaxf(new_max[r], shuffle_xor(new_max[r], mask));
            rescale[r] = exp2_fast((row_max[r] - new_max[r]) * to_log2);
            row_max[r] = new_max[r];
            row_sum[r] *= rescale[r];
        }
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[j][i] = exp2_fast((scores[j][i] - row_max[i / 2]) * to_log2);
                row_sum[i / 2] += scores[j][i];
            }
#pragma unroll
        for (int d = 0; d < D / 8; d++)
#pragma unroll
            for (int i = 0; i < 4; i++) out[d][i] *= rescale[i / 2];

        const T* const v_now = v + stage * KEYS * D;
#pragma unroll
        for (int j = 0; j < KEYS / 8; j += 2) {
            const uint32_t p[4] = {pack<T>(scores[j][0], scores[j][1]),
                                   pack<T>(scores[j][2], scores[j][3]),
                                   pack<T>(scores[j + 1][0], scores[j + 1][1]),
                                   pack<T>(scores[j + 1][2], scores[j + 1][3])};
#pragma unroll
            for (int d = 0; d < D / 8; d += 2) {
                uint32_t b[4];
                load_matrices_transposed(
                    b, chunk_at<const T, D>(v_now, j * 8 + lane % 16, d + lane / 16));
                multiply<T>(out[d], p, b[0], b[1]);
                multiply<T>(out[d + 1], p, b[2], b[3]);
            }
        }
    }

    if (warp * 16 >= tile.queries) return;
    // Through the warp's own rows of q, so that rows are written in 16 bytes.
    float factor[2];
    for (int r = 0; r < 2; r++) {
        for (int mask = 1; mask < 4; mask *= 2) row_sum[r] += shuffle_xor(row_sum[r], mask);
        factor[r] = 1 / row_sum[r];
    }
#pragma unroll
    for (int d = 0; d < D / 8; d++)
        for (int r = 0; r < 2; r++) {
            T* const to = chunk_at<T, D>(q, warp * 16 + lane / 4 + r * 8, d) + lane % 4 * 2;
            *reinterpret_cast<uint32_t*>(to) =
                pack<T>(out[d][r * 2] * factor[r], out[d][r * 2 + 1] * factor[r]);
        }
    __syncwarp();
    T* const rows = static_cast<T*>(a.out) + (size_t)tile.query_row * a.out_stride + column;
    for (uint32_t i = lane; i < 16 * chunks; i += 32) {
        const uint32_t row = warp * 16 + i / chunks, chunk = i % chunks;
        if (row < tile.queries) {
            const T* const from = chunk_at<T, D>(q, row, chunk);
            *reinterpret_cast<uint4*>(rows + (size_t)row * a.out_stride + chunk * 8) =
                *reinterpret_cast<const uint4*>(from);
        }
    }
}

// Every type, head size up to D, and alignment, in f32: a block has 32 queries of one head, a warp
// 4 of them, and 32 keys at a time are in shared memory. A lane computes the scores of one key,
// then the sums of every 32nd column of v.
template <class T, int D>
__device__ __forceinline__ void attend_any(const Attention& a) {
    constexpr int KEYS = 32, QUERIES = 32, EACH = 4, COLUMNS = D / 32;
    SHARED(shared);
    const uint32_t head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32,
                   size = a.head_size;
    const uint32_t pitch = size + 1;  // The same column of all rows lies in different banks.
    float* const q = reinterpret_cast<float*>(shared);  // [QUERIES / EACH, size, EACH]
    float* const p = q + QUERIES * size;                // [QUERIES / EACH, KEYS, EACH]
    float* const k = p + QUERIES * KEYS;                // [KEYS, pitch]
    float* const v = k + KEYS * pitch;                  // [KEYS, pitch]
    const Tile tile = a.tile(blockIdx.x);
    const size_t column = (size_t)head * size;
    const T* const queries =
        static_cast<const T*>(a.q) + (size_t)tile.query_row * a.q_stride + column;
    const T* const keys = static_cast<const T*>(a.k) + (size_t)tile.key_row * a.k_stride + column;
    const T* const values = static_cast<const T*>(a.v) + (size_t)tile.key_row * a.v_stride + column;
    for (uint32_t row = warp; row < QUERIES; row += blockDim.x / 32)
        for (uint32_t d = lane; d < size; d += 32) {
            const float x =
                row < tile.queries ? widen(queries[(size_t)row * a.q_stride + d]) * a.scale : 0;
            q[(row / EACH * size + d) * EACH + row % EACH] = x;
        }
    float out[COLUMNS][EACH] = {}, row_max[EACH], row_sum[EACH] = {};
    for (int i = 0; i < EACH; i++) row_max[i] = -INFINITY;
    for (uint32_t first = 0; first < tile.keys; first += KEYS) {
        __syncthreads();  // The keys before are done with.
        for (uint32_t row = warp; row < KEYS; row += blockDim.x / 32)
            for (uint32_t d = lane; d < size; d += 32) {
                const bool there = first + row < tile.keys;
                k[row * pitch + d] =
                    there ? widen(keys[(size_t)(first + row) * a.k_stride + d]) : 0;
                v[row * pitch + d] =
                    there ? widen(values[(size_t)(first + row) * a.v_stride + d]) : 0;
            }
        __syncthreads();
        if (warp * EACH >= tile.queries) continue;
        float scores[EACH] = {};
#pragma unroll 4
        for (uint32_t d = 0; d < size; d++) {
            const float x = k[lane * pitch + d];
            float mine[EACH];
            load16<float>(mine, q + (warp * size + d) * EACH);
#pragma unroll
            for (int i = 0; i < EACH; i++) scores[i] += mine[i] * x;
        }
        float rescale[EACH];
        const uint32_t key = first + lane;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const uint32_t query = warp * EACH + i;
            if (a.bias && key < tile.keys && query < tile.queries) {
                scores[i] = at_least_masked(scores[i] + a.bias_row(tile, head, query)[key]);
            }
            const float score = key < tile.keys ? scores[i] : -INFINITY;
            const float new_max = fmaxf(row_max[i], warp_max(score));
            const float weight = exp2_fast((score - new_max) * LOG2_E);
            rescale[i] = exp2_fast((row_max[i] - new_max) * LOG2_E);
            row_sum[i] = row_sum[i] * rescale[i] + weight;
            row_max[i] = new_max;
            p[(warp * KEYS + lane) * EACH + i] = weight;
        }
        __syncwarp();
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            const uint32_t d = c * 32 + lane;
            if (d >= size) break;
#pragma unroll
            for (int i = 0; i < EACH; i++) out[c][i] *= rescale[i];
#pragma unroll 4
            for (int row = 0; row < KEYS; row++) {
                const float x = v[row * pitch + d];
                float weights[EACH];
                load16<float>(weights, p + (warp * KEYS + row) * EACH);
#pragma unroll
                for (int i = 0; i < EACH; i++) out[c][i] += weights[i] * x;
            }
        }
        __syncwarp();  // Before the next weights.
    }
    T* const rows = static_cast<T*>(a.out) + (size_t)tile.query_row * a.out_stride + column;
    for (int i = 0; i < EACH; i++) {
        const uint32_t query = warp * EACH + i;
        const float factor = 1 / warp_sum(row_sum[i]);
        for (int c = 0; c < COLUMNS; c++) {
            const uint32_t d = c * 32 + lane;
            if (query < tile.queries && d < size)
                narrow(rows[(size_t)query * a.out_stride + d], out[c][i] * factor);
        }
    }
}

// attention_{type}_{D}_{warps}: without a bias 8 warps, or 4 for up to 64 queries; with one 4.
#define ATTENTION(T, D, blocks)                                                                \
    KERNEL(attention_##T##_##D##_8, (Attention a), 256, blocks) { attend<T, D, 8, false>(a); } \
    KERNEL(attention_##T##_##D##_4, (Attention a), 128, 2) { attend<T, D, 4, false>(a); }      \
    KERNEL(attention_bias_##T##_##D##_4, (Attention a), 128, 2) { attend<T, D, 4, true>(a); }
ATTENTION(bf16, 32, 2)
ATTENTION(bf16, 64, 2)
ATTENTION(bf16, 128, 1)
ATTENTION(f16, 32, 2)
ATTENTION(f16, 64, 2)
ATTENTION(f16, 128, 1)

#define ATTENTION_ANY(T)                                                            \
    KERNEL(attention_any_##T##_64, (Attention a), 256, 2) { attend_any<T, 64>(a); } \
    KERNEL(attention_any_##T##_256, (Attention a), 256, 1) { attend_any<T, 256>(a); }
ATTENTION_ANY(bf16)
ATTENTION_ANY(f16)
ATTENTION_ANY(f32)
