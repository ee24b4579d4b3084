// Elementwise activations, in place or not. The functions are those of activation.rs.
#include "device.cuh"

// Their numbers in Rust: `Activation as u32`.
enum Activation {
    GELU,
    GELU_10,
    GELU_TANH,
    QUICK_GELU,
    HARDSWISH,
    LAPLACE,
    LEAKY_RELU,
    LINEAR,
    MISH,
    RELU,
    RELU_2,
    RELU_6,
    SIGMOID,
    SILU,
    SQRT_SOFTPLUS,
    TANH
};

// NaN stays NaN.
__device__ __forceinline__ float relu(float x) { return x < 0 ? 0 : x; }
__device__ __forceinline__ float clamp(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

// x Φ(x) = x erfc(−x/√2) / 2, which keeps its digits where Φ is small.
template <class T>
__device__ __forceinline__ float gelu(float x) {
    return .5f * x * erfcf(-.70710678f * x);
}

// The same to 3.3e-7, which is below the rounding of 16 bits, in 15 instructions. With z = |x|/√2,
// erfc(z) is e^(−z²) p(1/(1 + 0.3275911 z)), a polynomial of degree 5: Abramowitz & Stegun
// 1964, 7.1.26.
__device__ __forceinline__ float gelu_16_bit(float x) {
    const float size = fminf(fabsf(x), 30), z = size * .70710678f,
                t = reciprocal_fast(1 + .3275911f * z);
    const float p =
        t * (.254829592f +
             t * (-.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    const float tail =
        .5f * size * p * exp2_fast(-1.44269504f * z * z);  // |x| Φ(−|x|), 0 beyond 30
    return relu(x) - tail;
}
template <>
__device__ __forceinline__ float gelu<bf16>(float x) {
    return gelu_16_bit(x);
}
template <>
__device__ __forceinline__ float gelu<f16>(float x) {
    return gelu_16_bit(x);
}

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

struct Activate {
    const void* x;
    void* y;
    size_t count;
};

// 16 bytes at a time; x and y begin at 16 bytes. They may be the same.
template <int ACTIVATION, class T>
__device__ void activate(const Activate& a) {
    constexpr int SIZE = IN_16_BYTES<T>;
    const T* const x = static_cast<const T*>(a.x);
    T* const y = static_cast<T*>(a.y);
    const size_t thread = (size_t)blockIdx.x * blockDim.x + threadIdx.x,
                 threads = (size_t)gridDim.x * blockDim.x;
    const size_t vectors = a.count / SIZE;
    for (size_t i = thread; i < vectors; i += threads) {
        float values[SIZE];
        load16(values, x + i * SIZE);
#pragma unroll
        for (int j = 0; j < SIZE; j++) values[j] = activation<ACTIVATION, T>(values[j]);
        store16(y + i * SIZE, values);
    }
    for (size_t i = vectors * SIZE + thread; i < a.count; i += threads) {
        narrow(y[i], activation<ACTIVATION, T>(widen(x[i])));
    }
}

#define ACTIVATE(ACTIVATION, number)                                                        \
    KERNEL(activate_bf16_##number, (Activate a), 256, 6) { activate<ACTIVATION, bf16>(a); } \
    KERNEL(activate_f16_##number, (Activate a), 256, 6) { activate<ACTIVATION, f16>(a); }   \
    KERNEL(activate_f32_##number, (Activate a), 256, 6) { activate<ACTIVATION, f32>(a); }   \
    static_assert(ACTIVATION == number);
ACTIVATE(GELU, 0)
ACTIVATE(GELU_10, 1)
ACTIVATE(GELU_TANH, 2)
ACTIVATE(QUICK_GELU, 3)
ACTIVATE(HARDSWISH, 4)
ACTIVATE(LAPLACE, 5)
ACTIVATE(LEAKY_RELU, 6)
ACTIVATE(MISH, 8)
ACTIVATE(RELU, 9)
ACTIVATE(RELU_2, 10)
ACTIVATE(RELU_6, 11)
ACTIVATE(SIGMOID, 12)
ACTIVATE(SILU, 13)
ACTIVATE(SQRT_SOFTPLUS, 14)
ACTIVATE(TANH, 15)
