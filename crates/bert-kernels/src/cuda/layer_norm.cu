// LayerNorm of a sum of up to three terms: layer_norm, add_layer_norm and embeddings_layer_norm.
#include "device.cuh"

// Rows of a matrix: row r is row ids[r % count] of it, or row r if there are no ids.
struct Term {
    const void* matrix;
    const uint32_t* ids;
    uint32_t count;
    uint32_t stride;  // from row to row, in numbers
};
constexpr int MOST_TERMS = 3;
struct LayerNorm {
    Term terms[MOST_TERMS];
    const void *gamma, *beta;
    void* y;
    int terms_count;
    uint32_t rows, width;
    float eps;
};

template <class T>
__device__ __forceinline__ const T* row_of(const Term& term, uint32_t row) {
    const size_t at = term.ids ? term.ids[row % term.count] : row;
    return static_cast<const T*>(term.matrix) + at * term.stride;
}

// A warp computes a row. Its numbers stay in registers: at most 32 in each lane, so at most 1024 in
// all. Rows begin at 16 bytes and are a multiple of 16 bytes long.
template <class T>
__device__ void layer_norm(const LayerNorm& a) {
    constexpr int SIZE = IN_16_BYTES<T>, CHUNKS = 32 / SIZE;
    const uint32_t row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= a.rows) return;
    const uint32_t width = a.width;
    const T *gamma = static_cast<const T*>(a.gamma), *beta = static_cast<const T*>(a.beta);
    T* const y = static_cast<T*>(a.y) + (size_t)row * width;
    float x[CHUNKS][SIZE] = {};
#pragma unroll
    for (int t = 0; t < MOST_TERMS; t++) {
        if (t >= a.terms_count) break;
        const T* from = row_of<T>(a.terms[t], row);
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            const uint32_t column = (i * 32 + lane) * SIZE;
            float term[SIZE];
            if (column < width) {
                load16(term, from + column);
                for (int j = 0; j < SIZE; j++) x[i][j] += term[j];
            }
        }
    }
    float total = 0;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++)
        for (int j = 0; j < SIZE; j++) total += x[i][j];
    const float mean = warp_sum(total) / width;
    float squares = 0;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++)
        for (int j = 0; j < SIZE; j++) {
            const bool there = (i * 32 + lane) * SIZE < width;
            x[i][j] = there ? x[i][j] - mean : 0;
            squares += x[i][j] * x[i][j];
        }
    const float scale = rsqrtf(warp_sum(squares) / width + a.eps);
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        const uint32_t column = (i * 32 + lane) * SIZE;
        if (column < width) {
            float g[SIZE], b[SIZE];
            load16(g, gamma + column), load16(b, beta + column);
            for (int j = 0; j < SIZE; j++) x[i][j] = x[i][j] * scale * g[j] + b[j];
            store16(y + column, x[i]);
        }
    }
}

// The same for every width and alignment: a warp reads its row three times.
template <class T>
__device__ void layer_norm_any(const LayerNorm& a) {
    const uint32_t row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= a.rows) return;
    const uint32_t width = a.width;
    const T *gamma = static_cast<const T*>(a.gamma), *beta = static_cast<const T*>(a.beta);
    T* const y = static_cast<T*>(a.y) + (size_t)row * width;
    const T* from[MOST_TERMS];
#pragma unroll
    for (int t = 0; t < MOST_TERMS; t++)
        from[t] = t < a.terms_count ? row_of<T>(a.terms[t], row) : nullptr;
    const auto x = [&](uint32_t column) {
        float x = 0;
#pragma unroll
        for (int t = 0; t < MOST_TERMS; t++)
            if (from[t]) x += widen(from[t][column]);
        return x;
    };
    float total = 0;
    for (uint32_t column = lane; column < width; column += 32) total += x(column);
    const float mean = warp_sum(total) / width;
    float squares = 0;
    for (uint32_t column = lane; column < width; column += 32) {
        const float deviation = x(column) - mean;
        squares += deviation * deviation;
    }
    const float scale = rsqrtf(warp_sum(squares) / width + a.eps);
    for (uint32_t column = lane; column < width; column += 32)
        narrow(y[column], (x(column) - mean) * scale * widen(gamma[column]) + widen(beta[column]));
}

#define LAYER_NORM(T)                                                   \
    KERNEL(layer_norm_##T, (LayerNorm a), 128, 8) { layer_norm<T>(a); } \
    KERNEL(layer_norm_any_##T, (LayerNorm a), 128, 8) { layer_norm_any<T>(a); }
LAYER_NORM(bf16)
LAYER_NORM(f16)
LAYER_NORM(f32)
