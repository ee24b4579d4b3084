// What kernels need of the machine below them. This is the only file with inline PTX; under EMULATE
// the same functions come from emulate.h, and kernels run on the host.
#pragma once
#ifdef EMULATE
#include "emulate.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;
typedef __half f16;

// A kernel, the threads of its blocks, and the blocks of it that one multiprocessor should hold.
#define KERNEL(name, parameters, threads, blocks) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name parameters
#define CHECK_16_BYTES(pointer)  // A GPU stops by itself.
#define SHARED(name) extern __shared__ __align__(128) unsigned char name[]

__device__ __forceinline__ float shuffle_xor(float x, int mask) {
    return __shfl_xor_sync(0xffffffffu, x, mask);
}

// 2ˣ to 2 units in the last place; 0 for −∞. PTX ISA: ex2.approx.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1/x to 1 unit in the last place. PTX ISA: rcp.approx.
__device__ __forceinline__ float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

// 16 bytes to shared memory, not before they are waited for; zeros if they are not there. PTX ISA:
// cp.async.
__device__ __forceinline__ void copy16(void* to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}
// The copies since the last call become a group.
__device__ __forceinline__ void commit_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits for all groups except the last LEFT.
template <int LEFT>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// Four matrices of 8x8 numbers of 16 bits. A lane brings the address of row lane % 8 of matrix lane
// / 8. PTX ISA: ldmatrix.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// c += a b, 16x16 times 16x8, added up in f32. PTX ISA: mma.m16n8k16.
template <class T>
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1);
#define MULTIPLY(T, type)                                                                   \
    template <>                                                                             \
    __device__ __forceinline__ void multiply<T>(float (&c)[4], const uint32_t (&a)[4],      \
                                                uint32_t b0, uint32_t b1) {                 \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
                     ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                       \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));       \
    }
MULTIPLY(bf16, "bf16")
MULTIPLY(f16, "f16")
#undef MULTIPLY

__device__ __forceinline__ float widen(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(f16 x) { return __half2float(x); }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ void narrow(bf16& to, float x) { to = __float2bfloat16_rn(x); }
__device__ __forceinline__ void narrow(f16& to, float x) { to = __float2half_rn(x); }
__device__ __forceinline__ void narrow(float& to, float x) { to = x; }

// Two numbers in 32 bits, the low half first.
template <class T>
__device__ __forceinline__ uint32_t pack(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack<bf16>(float low, float high) {
    __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t*>(&two);
}
template <>
__device__ __forceinline__ uint32_t pack<f16>(float low, float high) {
    __half2 two = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t*>(&two);
}
template <class T>
__device__ __forceinline__ void unpack(float& low, float& high, uint32_t two);
template <>
__device__ __forceinline__ void unpack<bf16>(float& low, float& high, uint32_t two) {
    low = __uint_as_float(two << 16);
    high = __uint_as_float(two & 0xffff0000u);
}
template <>
__device__ __forceinline__ void unpack<f16>(float& low, float& high, uint32_t two) {
    float2 floats = __half22float2(*reinterpret_cast<__half2*>(&two));
    low = floats.x;
    high = floats.y;
}
#endif

typedef float f32;

// The numbers in 16 bytes of memory, which are aligned.
template <class T>
constexpr int IN_16_BYTES = 16 / sizeof(T);
template <class T>
__device__ __forceinline__ void load16(float (&x)[IN_16_BYTES<T>], const T* from) {
    CHECK_16_BYTES(from);
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    unpack<T>(x[0], x[1], bits.x), unpack<T>(x[2], x[3], bits.y), unpack<T>(x[4], x[5], bits.z),
        unpack<T>(x[6], x[7], bits.w);
}
template <>
__device__ __forceinline__ void load16<float>(float (&x)[4], const float* from) {
    CHECK_16_BYTES(from);
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    x[0] = __uint_as_float(bits.x), x[1] = __uint_as_float(bits.y), x[2] = __uint_as_float(bits.z),
    x[3] = __uint_as_float(bits.w);
}
template <class T>
__device__ __forceinline__ void store16(T* to, const float (&x)[IN_16_BYTES<T>]) {
    CHECK_16_BYTES(to);
    *reinterpret_cast<uint4*>(to) =
        uint4{pack<T>(x[0], x[1]), pack<T>(x[2], x[3]), pack<T>(x[4], x[5]), pack<T>(x[6], x[7])};
}
template <>
__device__ __forceinline__ void store16<float>(float* to, const float (&x)[4]) {
    CHECK_16_BYTES(to);
    *reinterpret_cast<uint4*>(to) = uint4{__float_as_uint(x[0]), __float_as_uint(x[1]),
                                          __float_as_uint(x[2]), __float_as_uint(x[3])};
}

// Sum and maximum over the lanes of a warp.
__device__ __forceinline__ float warp_sum(float x) {
    for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
    for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, shuffle_xor(x, mask));
    return x;
}
