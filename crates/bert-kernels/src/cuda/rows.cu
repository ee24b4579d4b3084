// Rows in another order, and sums of rows: gather_rows, sum_rows.
#include "device.cuh"

struct GatherRows {
    const void* x;
    const uint32_t* ids;
    void* y;
    uint32_t rows, length, stride;  // Length of a row and distance of the rows of x in units.
};

// A warp copies row ids[row] of x, or zeros if that is no row.
template <class Unit>
__device__ void gather_rows(const GatherRows& a) {
    const uint32_t row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= a.rows) return;
    const uint32_t id = a.ids[row];
    const Unit* from = static_cast<const Unit*>(a.x) + (size_t)id * a.stride;
    Unit* to = static_cast<Unit*>(a.y) + (size_t)row * a.length;
    for (uint32_t i = lane; i < a.length; i += 32) to[i] = id == 0xffffffffu ? Unit{} : from[i];
}

// Units of 16, 4 and 2 bytes.
KERNEL(gather_rows_16, (GatherRows a), 128, 8) { gather_rows<uint4>(a); }
KERNEL(gather_rows_4, (GatherRows a), 128, 8) { gather_rows<uint32_t>(a); }
KERNEL(gather_rows_2, (GatherRows a), 128, 8) { gather_rows<uint16_t>(a); }

struct SumRows {
    const void* x;
    const uint2* ranges;  // first row and the row after the last
    float* y;
    uint32_t width, stride;
};

template <int SIZE, class T>
__device__ __forceinline__ void load(float (&x)[SIZE], const T* from) {
    if constexpr (SIZE == 1)
        x[0] = widen(*from);
    else
        load16(x, from);
}

// A block adds up the rows in range blockIdx.x of 32 * SIZE columns. Each of its warps takes every
// WARPS-th row, then the sums of the warps are added up in their order.
template <class T, int SIZE>
__device__ void sum_rows(const SumRows& a) {
    constexpr int WARPS = 8;
    SHARED(shared);
    float* const sums = reinterpret_cast<float*>(shared);  // [WARPS, 32 * SIZE]
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.y * 32 * SIZE;
    const uint32_t column = first + lane * SIZE;
    const uint2 range = a.ranges[blockIdx.x];
    float sum[SIZE] = {};
    if (column < a.width) {
        const T* from = static_cast<const T*>(a.x) + column;
#pragma unroll 4
        for (uint32_t row = range.x + warp; row < range.y; row += WARPS) {
            float x[SIZE];
            load(x, from + (size_t)row * a.stride);
#pragma unroll
            for (int i = 0; i < SIZE; i++) sum[i] += x[i];
        }
    }
#pragma unroll
    for (int i = 0; i < SIZE; i++) sums[(warp * 32 + lane) * SIZE + i] = sum[i];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < 32 * SIZE && first + i < a.width; i += blockDim.x) {
        float total = 0;
        for (int w = 0; w < WARPS; w++) total += sums[w * 32 * SIZE + i];
        a.y[(size_t)blockIdx.x * a.width + first + i] = total;
    }
}

// By 16 bytes, and one by one for every width and alignment.
#define SUM_ROWS(T)                                                               \
    KERNEL(sum_rows_##T, (SumRows a), 256, 4) { sum_rows<T, IN_16_BYTES<T>>(a); } \
    KERNEL(sum_rows_any_##T, (SumRows a), 256, 4) { sum_rows<T, 1>(a); }
SUM_ROWS(bf16)
SUM_ROWS(f16)
SUM_ROWS(f32)
