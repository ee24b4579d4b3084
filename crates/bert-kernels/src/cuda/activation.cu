// Elementwise activations, in place or not. The functions are those of activation.rs.
#include "device.cuh"

// Their numbers in Rust: `Activation as u32`.
enum Activation {
    GELU, GELU_10, GELU_TANH, QUICK_GELU, HARDSWISH, LAPLACE, LEAKY_RELU, LINEAR, MISH, RELU, RELU_2, RELU_6, SIGMOID, SILU,
    SQRT_SOFTPLUS, TANH
};

// NaN stays NaN.
__device__ __forceinline__ float relu(float x) { return x < 0 ? 0 : x; }
__device__ __forceinline__ float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

// x Φ(x) = x erfc(−x/√2) / 2, which keeps its digits where Φ is small.
template <class T>
__device__ __forceinline__ float gelu(float x) { return .5f * x * erfcf(-.70710678f * x); }

// The same to 3.3e-7, which is below the rounding of 16 bits, in 15 instructions. With z = |x|/√2, erfc(z) is
// e^(−z²) p(1/(1 + 0.3275911 z)), a polynomial of degree 5: Abramowitz & Stegun 1964, 7.1.26.
__device__ __forceinline__ float gelu_16_bit(float x) {
    const float size = fminf(fabsf(x), 30), z = size * .70710678f, t = reciprocal_fast(1 + .3275911f * z);
    const float p = t * (.254829592f + t * (-.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    const float tail = .5f * size * p * exp2_fast(-1.44269504f * z * z); // |x| Φ(−|x|), 0 beyond 30
    return relu(x) - tail;
}
template <> __device__ __forceinline__ float gelu<bf16>(float x) { return gelu_16_bit(x); }
template <> __device__ __forceinline__ float gelu<f16>(float x) { return gelu_16_bit(x); }

__device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }
__device__ __forceinline__ float softplus(float x) { return relu(x) + log1pf(expf(-fabsf(x))); }

template <int ACTIVATION, class T>
__device__ __forceinline__ float activation(float x) {
    switch (ACTIVATION) {
        case GELU: return gelu<T>(x);
        case GELU_10: return clamp(gelu<T>(x), -10, 10);
        case GELU_TANH: return .5f * x * (1 + tanhf(.79788456f * (x + .044715f * x * x * x)));
        case QUICK_GELU: return x * sigmoid(1.702f * x);
        case HARDSWISH: return x * clamp(x + 3, 0, 6) / 6;
        case LAPLACE: return .5f * (1 + erff((x - .707107f) / (.282095f * 1.41421356f)));
        case LEAKY_RELU: return x > 0 ? x : .01f * x;
        case MISH: return x * tanhf(softplus(x));
        case RELU: return relu(x);
        case RELU_2: return relu(x) * relu(x);
        case RELU_6: return clamp(x, 0, 6);
        case SIGMOID: return sigmoid(x);
        case SILU: return x * sigmoid(x);
        case SQRT_SOFTPLUS: return sqrtf(softplus(x));
        case TANH: return tanhf(x);
        default: return x;
    }
}

// 16 bytes at a time; x and y begin at 16 bytes. They may be the same.
template <int ACTIVATION, class T>
__device__ void apply(const T* x, T* y, size_t count) {
    constexpr int SIZE = IN_16_BYTES<T>;
    const size_t first = (size_t)blockIdx.x * blockDim.x + threadIdx.x, threads = (size_t)gridDim.x * blockDim.x;
    for (size_t i = first; i < count / SIZE; i += threads) {
        float values[SIZE];
        load16(values, x + i * SIZE);
#pragma unroll
        for (int j = 0; j < SIZE; j++) values[j] = activation<ACTIVATION, T>(values[j]);
        store16(y + i * SIZE, values);
    }
    for (size_t i = count / SIZE * SIZE + first; i < count; i += threads) narrow(y[i], activation<ACTIVATION, T>(widen(x[i])));
}

struct Activate {
    const void* x;
    void* y;
    size_t count;
    uint32_t activation;
};

template <class T>
__device__ void activate(const Activate& a) {
    const T* x = static_cast<const T*>(a.x);
    T* y = static_cast<T*>(a.y);
    switch (a.activation) {
#define CASE(ACTIVATION) case ACTIVATION: return apply<ACTIVATION>(x, y, a.count);
        CASE(GELU) CASE(GELU_10) CASE(GELU_TANH) CASE(QUICK_GELU) CASE(HARDSWISH) CASE(LAPLACE) CASE(LEAKY_RELU)
        CASE(MISH) CASE(RELU) CASE(RELU_2) CASE(RELU_6) CASE(SIGMOID) CASE(SILU) CASE(SQRT_SOFTPLUS) CASE(TANH)
#undef CASE
    }
}

#define ACTIVATE(T) KERNEL(activate_##T, (Activate a), 256, 4) { activate<T>(a); }
ACTIVATE(bf16)
ACTIVATE(f16)
ACTIVATE(f32)
