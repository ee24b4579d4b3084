// Rows in another order, and sums of rows: gather_rows, sum_rows.
#include "device.cuh"

struct GatherRows {
    const void* x;
    const uint32_t* ids;
    void* y;
    uint32_t rows, length, stride; // Length of a row and distance of the rows of x in units.
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
    const uint2* ranges; // first row and the row after the last
    float* y;
    uint32_t width, stride;
};

// A thread adds up one column of the rows in range blockIdx.x.
template <class T>
__device__ void sum_rows(const SumRows& a) {
    const uint32_t column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= a.width) return;
    const uint2 range = a.ranges[blockIdx.x];
    const T* from = static_cast<const T*>(a.x) + column;
    float sum = 0;
#pragma unroll 4
    for (uint32_t row = range.x; row < range.y; row++) sum += widen(from[(size_t)row * a.stride]);
    a.y[(size_t)blockIdx.x * a.width + column] = sum;
}

#define SUM_ROWS(T) KERNEL(sum_rows_##T, (SumRows a), 256, 8) { sum_rows<T>(a); }
SUM_ROWS(bf16)
SUM_ROWS(f16)
SUM_ROWS(f32)
