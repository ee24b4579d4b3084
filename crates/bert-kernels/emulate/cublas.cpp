// The parts of cuBLAS, cuBLASLt and cuRAND that Candle and our kernels call: matrix products,
// column-major.
#include <random>

#include "emulate.h"
#include "stream.h"

typedef int Status;
enum { OK = 0, NOT_INITIALIZED = 1, UNSUPPORTED = 15, BAD_VALUE = 7 };
enum Type { F32 = 0, F64 = 1, F16 = 2, BF16 = 14 };

static double element(int type, const void* p, size_t i) {
    switch (type) {
        case F32: return static_cast<const float*>(p)[i];
        case F64: return static_cast<const double*>(p)[i];
        case F16: return widen(static_cast<const f16*>(p)[i]);
        default: return widen(static_cast<const bf16*>(p)[i]);
    }
}
static void put(int type, void* p, size_t i, double x) {
    switch (type) {
        case F32: static_cast<float*>(p)[i] = x; break;
        case F64: static_cast<double*>(p)[i] = x; break;
        case F16: narrow(static_cast<f16*>(p)[i], x); break;
        default: narrow(static_cast<bf16*>(p)[i], x);
    }
}

struct Matrix {
    int type;
    uint64_t rows, columns;
    int64_t stride;  // from column to column
    const void* at;
    bool transposed;

    // Lines of the numbers that are added up in a product: rows if `by_rows`, otherwise columns.
    std::vector<double> lines(bool by_rows) const {
        std::vector<double> all;
        for (uint64_t j = 0; j < (by_rows ? rows : columns); j++)
            for (uint64_t i = 0; i < (by_rows ? columns : rows); i++)
                all.push_back(element(type, at, by_rows ? j + i * stride : i + j * stride));
        return all;
    }
};

// d = alpha a b + beta d, then `finish`(row, number). Added up in f64: real cuBLAS has an order
// that nobody promises.
static void product(const Matrix& a, const Matrix& b, const Matrix& d, double alpha, double beta,
                    const std::function<double(uint64_t, double)>& finish) {
    const std::vector<double> x = a.lines(!a.transposed), y = b.lines(b.transposed);
    const uint64_t inner = a.transposed ? a.rows : a.columns;
    for (uint64_t j = 0; j < d.columns; j++)
        for (uint64_t i = 0; i < d.rows; i++) {
            double sum = 0;
            for (uint64_t k = 0; k < inner; k++) sum += x[k + i * inner] * y[k + j * inner];
            const size_t at = i + j * d.stride;
            sum = alpha * sum + (beta ? beta * element(d.type, d.at, at) : 0);
            put(d.type, const_cast<void*>(d.at), at, finish(i, sum));
        }
}

struct Handle {
    void* stream;
};
static Status batched(Handle* handle, int ta, int tb, int m, int n, int k, double alpha,
                      const void* a, int type, int lda, long long sa, const void* b, int ldb,
                      long long sb, double beta, void* c, int ldc, long long sc, int count) {
    std::lock_guard<std::recursive_mutex> guard(emulated_lock());
    if (m <= 0 || n <= 0 || k <= 0 || lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m)
        return BAD_VALUE;
    const size_t size = type == F64 ? 8 : type == F32 ? 4 : 2;
    submit(handle->stream, [=] {
        for (int i = 0; i < count; i++) {
            const auto at = [&](const void* p, long long stride) {
                return static_cast<const char*>(p) + i * stride * size;
            };
            const uint64_t M = m, N = n, K = k;
            product({type, ta ? K : M, ta ? M : K, lda, at(a, sa), ta != 0},
                    {type, tb ? N : K, tb ? K : N, ldb, at(b, sb), tb != 0},
                    {type, M, N, ldc, at(c, sc), false}, alpha, beta,
                    [](uint64_t, double x) { return x; });
        }
    });
    return OK;
}

struct Description {
    int transposed[2], epilogue;
    const void* bias;
};
struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
};
struct Preference {
    size_t workspace;
    uint32_t alignments[4];
};
struct Algorithm {
    uint64_t data[8];
};
struct Found {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
constexpr uint64_t CHOSEN = 0x600d;

extern "C" {
Status cublasCreate_v2(Handle** handle) { return *handle = new Handle{}, OK; }
Status cublasDestroy_v2(Handle* handle) { return delete handle, OK; }
Status cublasSetStream_v2(Handle* handle, void* stream) { return handle->stream = stream, OK; }
Status cublasGemmStridedBatchedEx(Handle* handle, int ta, int tb, int m, int n, int k,
                                  const float* alpha, const void* a, int type, int lda,
                                  long long sa, const void* b, int, int ldb, long long sb,
                                  const float* beta, void* c, int, int ldc, long long sc, int count,
                                  int compute, int) {
    if (compute != 68) return UNSUPPORTED;  // CUBLAS_COMPUTE_32F
    return batched(handle, ta, tb, m, n, k, *alpha, a, type, lda, sa, b, ldb, sb, *beta, c, ldc, sc,
                   count);
}
Status cublasDgemmStridedBatched(Handle* handle, int ta, int tb, int m, int n, int k,
                                 const double* alpha, const void* a, int lda, long long sa,
                                 const void* b, int ldb, long long sb, const double* beta, void* c,
                                 int ldc, long long sc, int count) {
    return batched(handle, ta, tb, m, n, k, *alpha, a, F64, lda, sa, b, ldb, sb, *beta, c, ldc, sc,
                   count);
}

Status curandCreateGenerator(std::mt19937_64** generator, int) {
    return *generator = new std::mt19937_64, OK;
}
Status curandDestroyGenerator(std::mt19937_64* generator) { return delete generator, OK; }
Status curandSetPseudoRandomGeneratorSeed(std::mt19937_64* generator, unsigned long long seed) {
    return generator->seed(seed), OK;
}
Status curandSetStream(void*, void*) { return OK; }
#define RANDOM(name, T, distribution, ...)                                        \
    Status name(std::mt19937_64* generator, T* to, size_t count, ##__VA_ARGS__) { \
        std::lock_guard<std::recursive_mutex> guard(emulated_lock());             \
        auto next = distribution;                                                 \
        for (size_t i = 0; i < count; i++) to[i] = next(*generator);              \
        return OK;                                                                \
    }
RANDOM(curandGenerateUniform, float, std::uniform_real_distribution<float>(0, 1))
RANDOM(curandGenerateUniformDouble, double, std::uniform_real_distribution<double>(0, 1))
RANDOM(curandGenerateNormal, float, std::normal_distribution<float>(mean, deviation), float mean,
       float deviation)
RANDOM(curandGenerateNormalDouble, double, std::normal_distribution<double>(mean, deviation),
       double mean, double deviation)

Status cublasLtCreate(void** handle) {
    return *handle = malloc(1), current_context() ? OK : NOT_INITIALIZED;
}
Status cublasLtDestroy(void* handle) { return free(handle), OK; }
Status cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns,
                                  int64_t stride) {
    return *layout = new Layout{type, rows, columns, stride}, OK;
}
Status cublasLtMatrixLayoutDestroy(Layout* layout) { return delete layout, OK; }
Status cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value,
                                        size_t size) {
    if (attribute == 2 && size == 8)
        memcpy(&layout->rows, value, 8);
    else if (attribute == 3 && size == 8)
        memcpy(&layout->columns, value, 8);
    else if (attribute == 4 && size == 8)
        memcpy(&layout->stride, value, 8);
    else
        return BAD_VALUE;
    return OK;
}
Status cublasLtMatmulDescCreate(Description** description, int compute, int scale) {
    if (compute != 68 || scale != F32) return UNSUPPORTED;
    return *description = new Description{{0, 0}, 1, nullptr}, OK;
}
Status cublasLtMatmulDescDestroy(Description* description) { return delete description, OK; }
Status cublasLtMatmulDescSetAttribute(Description* description, int attribute, const void* value,
                                      size_t size) {
    if ((attribute == 3 || attribute == 4) && size == 4)
        memcpy(&description->transposed[attribute - 3], value, 4);
    else if (attribute == 7 && size == 4)
        memcpy(&description->epilogue, value, 4);
    else if (attribute == 8 && size == 8)
        memcpy(&description->bias, value, 8);
    else
        return BAD_VALUE;
    return description->epilogue == 1 || description->epilogue == 4 ? OK
                                                                    : UNSUPPORTED;  // default, bias
}
Status cublasLtMatmulPreferenceCreate(Preference** preference) {
    return *preference = new Preference{0, {256, 256, 256, 256}}, OK;
}
Status cublasLtMatmulPreferenceDestroy(Preference* preference) { return delete preference, OK; }
Status cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute,
                                            const void* value, size_t size) {
    if (attribute == 1 && size == 8)
        memcpy(&preference->workspace, value, 8);
    else if (attribute >= 5 && attribute <= 8 && size == 4)
        memcpy(&preference->alignments[attribute - 5], value, 4);
    else
        return BAD_VALUE;
    return OK;
}
// The algorithm remembers the alignments and the sizes that it was chosen for. It wants 512 bytes
// if it may have them.
Status cublasLtMatmulAlgoGetHeuristic(void*, Description* description, Layout* a, Layout*,
                                      Layout*, Layout* d, Preference* preference, int, Found* found,
                                      int* count) {
    *found = {}, *count = 0;
    const uint64_t inner = description->transposed[0] ? a->rows : a->columns;
    found->algorithm.data[0] = CHOSEN;
    for (int i = 0; i < 4; i++) found->algorithm.data[1 + i] = preference->alignments[i];
    found->algorithm.data[5] = inner | d->columns << 32, found->algorithm.data[6] = d->rows;
    found->workspace = preference->workspace < 512 ? 0 : 512;
    found->algorithm.data[7] = found->workspace;
    return *count = 1, OK;
}
Status cublasLtMatmul(void*, Description* description, const float* alpha, const void* a,
                      Layout* la, const void* b, Layout* lb, const float* beta, const void* c,
                      Layout* lc, void* d, Layout* ld, const Algorithm* algorithm, void* workspace,
                      size_t workspace_bytes, void* stream) {
    std::lock_guard<std::recursive_mutex> guard(emulated_lock());
    const Description how = *description;
    const Matrix x = {la->type, la->rows, la->columns, la->stride, a, how.transposed[0] != 0};
    const Matrix y = {lb->type, lb->rows, lb->columns, lb->stride, b, how.transposed[1] != 0};
    const Matrix z = {ld->type, ld->rows, ld->columns, ld->stride, d, false};
    const uint64_t inner = x.transposed ? x.rows : x.columns;
    if (!current_context()) return NOT_INITIALIZED;
    if (!algorithm) return UNSUPPORTED;  // The real one would choose one itself.
    const uint64_t* data = algorithm->data;
    if (data[0] != CHOSEN || data[5] % (1ull << 32) != inner || data[6] != z.rows ||
        workspace_bytes < data[7])
        return UNSUPPORTED;
    // It was chosen for some columns; for others it may not do.
    if (z.columns != data[5] >> 32 && z.columns % 3 == 1) return BAD_VALUE;
    if (workspace_bytes) memset(workspace, 0xff, data[7]);
    const void* pointers[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)pointers[i] % data[1 + i]) return UNSUPPORTED;
    if (how.bias && (uintptr_t)how.bias % 16) return UNSUPPORTED;
    if ((x.transposed ? x.columns : x.rows) != z.rows ||
        (y.transposed ? y.columns : y.rows) != inner ||
        (y.transposed ? y.rows : y.columns) != z.columns || lc->rows != z.rows ||
        (how.epilogue == 4) != (how.bias != nullptr)) {
        return BAD_VALUE;
    }
    submit(stream, [=, scale = *alpha, factor = *beta] {
        product(x, y, z, scale, factor, [&](uint64_t row, double sum) {
            return how.bias ? sum + element(z.type, how.bias, row) : sum;
        });
    });
    return OK;
}
}
