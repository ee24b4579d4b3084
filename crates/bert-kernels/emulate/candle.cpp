// Candle's own kernels that BERT calls, so that whole models run: plain loops over the grid's work,
// by the names and with the arguments of candle-kernels 0.11.
#include <algorithm>
#include <cmath>
#include <limits>

#include "emulate.h"

typedef uint8_t u8;
typedef uint32_t u32;
typedef int64_t i64;
typedef double f64;
typedef float f32;

template <class T>
auto wide(T x) {
    if constexpr (std::is_arithmetic_v<T>)
        return x;
    else
        return widen(x);
}
template <class T>
using Wide = decltype(wide(T()));
template <class T, class W>
T from_wide(W x) {
    T to;
    if constexpr (std::is_arithmetic_v<T>)
        to = static_cast<T>(x);
    else
        narrow(to, static_cast<float>(x));
    return to;
}

// Where an element lies, of a tensor with these dimensions and strides; null for a contiguous one.
static size_t strided(size_t i, size_t rank, const size_t* dims, const size_t* strides) {
    if (!dims) return i;
    size_t at = 0;
    for (size_t d = rank; d-- > 0; i /= dims[d]) at += i % dims[d] * strides[d];
    return at;
}

template <class F>
struct KernelOf;
template <class... A>
struct KernelOf<void (*)(A...)> {
    static void add(const std::string& name, void (*kernel)(A...)) {
        emulate::Register(name.c_str(), kernel, 1024);
        emulate::kernels()[name].native = true;
    }
};
template <class F>
void add(const std::string& name, F f) {
    auto* kernel = +f;
    KernelOf<decltype(kernel)>::add(name, kernel);
}

template <class T, class F>
void unary(const std::string& name, F) {
    add(name, [](size_t count, size_t rank, const size_t* info, const T* x, T* y) {
        for (size_t i = 0; i < count; i++)
            y[i] = from_wide<T>(F()(wide(x ? x[strided(i, rank, info, info + rank)] : y[i])));
    });
}
template <class T, class Out, class F>
void binary(const std::string& name, F) {
    add(name, [](size_t count, size_t rank, const size_t* info, const T* x, const T* y, Out* z) {
        for (size_t i = 0; i < count; i++) {
            const T a = x[strided(i, rank, info, info + rank)],
                    b = y[strided(i, rank, info, info + 2 * rank)];
            z[i] = from_wide<Out>(F()(wide(a), wide(b)));
        }
    });
}
template <class T, class F>
void reduction(const std::string& name, F) {
    add(name, [](size_t count, size_t each, size_t rank, const size_t* info, const T* x, T* y) {
        const bool small = emulate::block.kernel[8] == '_' &&
                           emulate::block.kernel[9] == 's';  // fast_sum_small: count of outputs
        for (size_t o = 0; o < (small ? count : count / each); o++) {
            auto sum = wide(x[strided(o * each, rank, info, info + rank)]);
            for (size_t i = 1; i < each; i++)
                sum = F()(sum, wide(x[strided(o * each + i, rank, info, info + rank)]));
            y[o] = from_wide<T>(sum);
        }
    });
}

template <class From, class To>
void cast(const std::string& name) {
    add(name, [](size_t count, size_t rank, const size_t* info, const From* x, To* y) {
        for (size_t i = 0; i < count; i++)
            y[i] = from_wide<To>(wide(x[strided(i, rank, info, info + rank)]));
    });
}

template <class T, class Id>
void indexing(const std::string& ids_and_type) {
    add("is_" + ids_and_type, [](size_t count, size_t, const size_t*, const Id* ids, const T* x,
                                 T* y, size_t, size_t size, size_t n, size_t right) {
        for (size_t i = 0; i < count; i++) {
            const Id id = ids[i / right % n];
            y[i] = id == std::numeric_limits<Id>::max()
                       ? T{}
                       : x[(i / (n * right) * size + id) * right + i % right];
        }
    });
    add("gather_" + ids_and_type, [](size_t count, const Id* ids, const T* x, T* y, size_t,
                                     size_t size, size_t n, size_t right) {
        for (size_t i = 0; i < count; i++)
            y[i] = ids[i] == std::numeric_limits<Id>::max()
                       ? T{}
                       : x[(i / (right * n) * size + ids[i]) * right + i % right];
    });
    add("ia_" + ids_and_type, [](const Id* ids, size_t n, const T* x, T* y, size_t left, size_t,
                                 size_t size, size_t right) {
        for (size_t i = 0; i < left * right; i++)
            for (size_t j = 0; j < n; j++) {
                if (ids[j] == std::numeric_limits<Id>::max()) continue;
                T& to = y[(i / right * size + ids[j]) * right + i % right];
                to = from_wide<T>(wide(to) + wide(x[(i / right * n + j) * right + i % right]));
            }
    });
    add("sa_" + ids_and_type,
        [](const Id* ids, const T* x, T* y, size_t left, size_t n, size_t size, size_t right) {
            for (size_t i = 0; i < left * right; i++)
                for (size_t j = 0; j < n; j++) {
                    const size_t from = (i / right * n + j) * right + i % right;
                    if (ids[from] == std::numeric_limits<Id>::max()) continue;
                    T& to = y[(i / right * size + ids[from]) * right + i % right];
                    to = from_wide<T>(wide(to) + wide(x[from]));
                }
        });
    add("where_" + ids_and_type, [](size_t count, size_t rank, const size_t* info, const Id* ids,
                                    const T* x, const T* y, T* z) {
        for (size_t i = 0; i < count; i++) {
            const bool which = ids[strided(i, rank, info, info + rank)];
            z[i] = which ? x[strided(i, rank, info, info + 2 * rank)]
                         : y[strided(i, rank, info, info + 3 * rank)];
        }
    });
}

#define FUNCTION(name, ...)          \
    struct name {                    \
        template <class W>           \
        auto operator()(W x) const { \
            return __VA_ARGS__;      \
        }                            \
    }
#define FUNCTION_OF_TWO(name, ...)        \
    struct name {                         \
        template <class W>                \
        auto operator()(W x, W y) const { \
            return __VA_ARGS__;           \
        }                                 \
    }
FUNCTION(Same, x);
FUNCTION(Negative, W(-x));
FUNCTION(Reciprocal, 1 / x);
FUNCTION(Exp, std::exp(x));
FUNCTION(Log, std::log(x));
FUNCTION(Sin, std::sin(x));
FUNCTION(Tanh, std::tanh(x));
FUNCTION(Erf, std::erf(x));
FUNCTION(Abs, std::abs(x));
FUNCTION(Square, x* x);
FUNCTION(Root, std::sqrt(x));
FUNCTION(Relu, x > 0 ? x : 0);
FUNCTION(Sign, W((x > 0) - (x < 0)));
FUNCTION(Gelu, W(.5) * x * (1 + std::tanh(W(.7978845608028654) * (x + W(.044715) * x * x * x))));
FUNCTION(GeluErf, W(.5) * x * std::erfc(-x * W(.7071067811865476)));
FUNCTION(Silu, x / (1 + std::exp(-x)));
FUNCTION(Sigmoid, 1 / (1 + std::exp(-x)));
FUNCTION_OF_TWO(Add, W(x + y));
FUNCTION_OF_TWO(Subtract, W(x - y));
FUNCTION_OF_TWO(Multiply, W(x* y));
FUNCTION_OF_TWO(Divide, W(x / y));
FUNCTION_OF_TWO(Minimum, x < y ? x : y);
FUNCTION_OF_TWO(Maximum, x > y ? x : y);
FUNCTION_OF_TWO(Equal, x == y);
FUNCTION_OF_TWO(NotEqual, x != y);
FUNCTION_OF_TWO(Less, x < y);
FUNCTION_OF_TWO(LessOrEqual, x <= y);
FUNCTION_OF_TWO(Greater, x > y);
FUNCTION_OF_TWO(GreaterOrEqual, x >= y);

template <class T>
void of_every_type(const std::string& type) {
    unary<T>("ucopy_" + type, Same());
    binary<T, T>("badd_" + type, Add());
    binary<T, T>("bsub_" + type, Subtract());
    binary<T, T>("bmul_" + type, Multiply());
    binary<T, T>("bdiv_" + type, Divide());
    binary<T, T>("bminimum_" + type, Minimum());
    binary<T, T>("bmaximum_" + type, Maximum());
    binary<T, u8>("eq_" + type, Equal());
    binary<T, u8>("ne_" + type, NotEqual());
    binary<T, u8>("lt_" + type, Less());
    binary<T, u8>("le_" + type, LessOrEqual());
    binary<T, u8>("gt_" + type, Greater());
    binary<T, u8>("ge_" + type, GreaterOrEqual());
    reduction<T>("fast_sum_" + type, Add());
    reduction<T>("fast_sum_small_" + type, Add());
    reduction<T>("fast_max_" + type, Maximum());
    reduction<T>("fast_min_" + type, Minimum());
    add("fast_argmax_" + type,
        [](size_t count, size_t each, size_t rank, const size_t* info, const T* x, u32* y) {
            for (size_t o = 0; o < count / each; o++) {
                y[o] = 0;
                const auto at = [&](size_t i) {
                    return wide(x[strided(o * each + i, rank, info, info + rank)]);
                };
                for (size_t i = 1; i < each; i++)
                    if (at(i) > at(y[o])) y[o] = i;
            }
        });
    add("affine_" + type,
        [](size_t count, size_t rank, const size_t* info, const T* x, T* y, T factor, T addend) {
            for (size_t i = 0; i < count; i++) {
                const auto number = wide(x ? x[strided(i, rank, info, info + rank)] : y[i]);
                y[i] = from_wide<T>(number * wide(factor) + wide(addend));
            }
        });
    add("copy2d_" + type, [](const T* x, T* y, u32 rows, u32 columns, u32 x_stride, u32 y_stride) {
        for (u32 i = 0; i < rows; i++)
            for (u32 j = 0; j < columns; j++)
                y[(size_t)i * y_stride + j] = x[(size_t)i * x_stride + j];
    });
    add("const_set_" + type, [](size_t count, size_t rank, const size_t* info, T x, T* y) {
        for (size_t i = 0; i < count; i++) y[strided(i, rank, info, info + rank)] = x;
    });
    indexing<T, u8>("u8_" + type);
    indexing<T, u32>("u32_" + type);
    indexing<T, i64>("i64_" + type);
    cast<T, u8>("cast_" + type + "_u8");
    cast<T, u32>("cast_" + type + "_u32");
    cast<T, i64>("cast_" + type + "_i64");
    cast<T, bf16>("cast_" + type + "_bf16");
    cast<T, f16>("cast_" + type + "_f16");
    cast<T, f32>("cast_" + type + "_f32");
    cast<T, f64>("cast_" + type + "_f64");
}

template <class T>
void of_real_numbers(const std::string& type) {
    unary<T>("uneg_" + type, Negative());
    unary<T>("urecip_" + type, Reciprocal());
    unary<T>("uexp_" + type, Exp());
    unary<T>("ulog_" + type, Log());
    unary<T>("usin_" + type, Sin());
    unary<T>("utanh_" + type, Tanh());
    unary<T>("uerf_" + type, Erf());
    unary<T>("uabs_" + type, Abs());
    unary<T>("usqr_" + type, Square());
    unary<T>("usqrt_" + type, Root());
    unary<T>("urelu_" + type, Relu());
    unary<T>("usign_" + type, Sign());
    unary<T>("ugelu_" + type, Gelu());
    unary<T>("ugelu_erf_" + type, GeluErf());
    unary<T>("usilu_" + type, Silu());
    unary<T>("usigmoid_" + type, Sigmoid());
    add("softmax_" + type, [](const T* x, T* y, int columns) {
        for (size_t row = 0; row < gridDim.x; row++, x += columns, y += columns) {
            auto most = wide(x[0]), sum = wide(T{});
            for (int i = 0; i < columns; i++) most = std::max(most, wide(x[i]));
            for (int i = 0; i < columns; i++) sum += std::exp(wide(x[i]) - most);
            for (int i = 0; i < columns; i++)
                y[i] = from_wide<T>(std::exp(wide(x[i]) - most) / sum);
        }
    });
    add("upowf_" + type,
        [](size_t count, size_t rank, const size_t* info, T power, const T* x, T* y) {
            for (size_t i = 0; i < count; i++)
                y[i] = from_wide<T>(
                    std::pow(wide(x ? x[strided(i, rank, info, info + rank)] : y[i]), wide(power)));
        });
}

__attribute__((constructor)) static void register_kernels() {
    of_every_type<u8>("u8");
    of_every_type<u32>("u32");
    of_every_type<i64>("i64");
    of_every_type<bf16>("bf16");
    of_every_type<f16>("f16");
    of_every_type<f32>("f32");
    of_every_type<f64>("f64");
    of_real_numbers<bf16>("bf16");
    of_real_numbers<f16>("f16");
    of_real_numbers<f32>("f32");
    of_real_numbers<f64>("f64");
}
