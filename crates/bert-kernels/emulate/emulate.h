// CUDA C++ on the host, for tests.
//
// The threads of a block are fibers of one thread of the host. They leave each other the processor
// only where CUDA threads wait: at barriers and in operations of a whole warp. What CUDA leaves
// open, the emulation chooses so that mistakes show: a warp runs as far as it can before another
// one starts, warps and lanes run forward, backward or shifted, asynchronous copies land at once or
// as late as they may, shared memory has exactly the requested size, ends at a page that cannot be
// read, and is NaN before every block.
//
// What it cannot show: mistakes in the inline PTX of device.cuh, races through global memory,
// limits of registers, the rounding of exp2.approx and tensor cores, and time.
#pragma once
#undef _FORTIFY_SOURCE  // It forbids longjmp to another stack.
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define __device__
#define __forceinline__ inline
#define CHECK_16_BYTES(pointer)                    \
    if (reinterpret_cast<uintptr_t>(pointer) % 16) \
    emulate::fail("an access of 16 bytes is not aligned")
#define SHARED(name) unsigned char* const name = emulate::block.shared
#define KERNEL(name, parameters, threads, blocks)                         \
    void name parameters;                                                 \
    static const emulate::Register register_##name(#name, name, threads); \
    void name parameters

struct uint2 {
    uint32_t x, y;
};
struct uint3 {
    uint32_t x, y, z;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
inline uint3 blockIdx, blockDim, gridDim;
#define threadIdx (emulate::running)

namespace emulate {

constexpr size_t PAGE = 4096, STACK = 1 << 16;

inline size_t in_pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

// Memory that ends at a page that nobody may touch, aligned to 16 bytes and no more. Null if there
// is not enough.
inline unsigned char* guarded(size_t bytes) {
    const size_t pages = in_pages(bytes);
    void* all = mmap(nullptr, pages + PAGE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) return nullptr;
    unsigned char* start = static_cast<unsigned char*>(all);
    mprotect(start + pages, PAGE, PROT_NONE);
    start += pages - (bytes + 15) / 16 * 16;
    memset(start, 0xff, bytes);  // NaN in every type
    return start;
}
inline void free_guarded(unsigned char* start, size_t bytes) {
    munmap(reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(start) / PAGE * PAGE),
           in_pages(bytes) + PAGE);
}

// The threads or lanes that wait for each other. Whoever waits does so until `turn` changes.
struct Meeting {
    uint32_t turn, arrived;
    int line;
};

struct Warp : Meeting {
    alignas(16) unsigned char in[2][32][48], out[2][32][16];
};

struct Copy {
    unsigned char* to;
    const unsigned char* from;
    int group;
};

struct Context {
    ucontext_t first;
    jmp_buf later;
    bool begun;
};

struct Fiber {
    Context context;
    unsigned char* stack;
    const Meeting* waits_at;
    uint32_t turn;  // that it waits to be over
    bool done;
    int group;  // the asynchronous copies that are not committed yet
    std::deque<Copy> copies;
};

enum Order { FORWARD, BACKWARD, SHIFTED };

struct Block {
    const char* kernel;
    std::function<void()> call;
    unsigned char* shared;
    uint32_t threads, alive;
    std::deque<Fiber> fibers;
    std::vector<Warp> warps;
    Meeting barrier;
    Fiber* current;
    Context scheduler;
    Order order;
    bool late;  // Asynchronous copies land when they are waited for.
    uint32_t random;
};
inline Block block;
inline uint3 running;

[[noreturn]] inline void fail(const char* what, int line = 0) {
    fprintf(stderr, "%s, block (%u, %u, %u), thread %u: %s (line %d)\n", block.kernel, blockIdx.x,
            blockIdx.y, blockIdx.z, running.x, what, line);
    abort();
}

inline void switch_contexts(Context& from, Context& to) {
    from.begun = true;  // _setjmp and _longjmp leave the signal mask alone, which makes them fast.
    if (_setjmp(from.later) == 0) to.begun ? _longjmp(to.later, 1) : (void)setcontext(&to.first);
}

// Whether it is the last one to arrive. The others wait first.
inline bool meet(Meeting& at, uint32_t count, int line) {
    if (at.arrived == 0) at.line = line;
    if (at.line != line) fail("threads wait for each other at different lines", line);
    if (++at.arrived == count) return true;
    Fiber& me = *block.current;
    me.waits_at = &at, me.turn = at.turn;
    switch_contexts(me.context, block.scheduler);
    return false;
}
inline void part(Meeting& at) { at.arrived = 0, at.turn++; }

inline Warp& warp() { return block.warps[running.x / 32]; }

// `all` computes the outputs of all lanes from their inputs, once the last of them has arrived.
template <class Out, class In, class F>
Out together(int line, const In& in, F all) {
    static_assert(sizeof(In) <= 48 && sizeof(Out) <= 16);
    Warp& here = warp();
    const uint32_t turn = here.turn % 2, lane = running.x % 32;
    memcpy(here.in[turn][lane], &in, sizeof in);
    if (meet(here, 32, line)) {
        all([&](int of) -> const In& { return *reinterpret_cast<const In*>(here.in[turn][of]); },
            [&](int of) -> Out& { return *reinterpret_cast<Out*>(here.out[turn][of]); });
        part(here);
    }
    Out out;
    memcpy(&out, here.out[turn][lane], sizeof out);
    return out;
}

// All asynchronous copies of this thread, except those of the last `left` groups, arrive.
inline void land(int left) {
    Fiber& me = *block.current;
    for (; !me.copies.empty() && me.copies.front().group < me.group - left; me.copies.pop_front()) {
        const Copy& copy = me.copies.front();
        if (copy.from)
            memcpy(copy.to, copy.from, 16);
        else
            memset(copy.to, 0, 16);
    }
}

// What a fiber does: the work of a thread, for one block after the other.
inline void thread_body() {
    for (;;) {
        block.call();
        Fiber& me = *block.current;
        if (!me.copies.empty()) fail("nobody has waited for an asynchronous copy");
        me.done = true;
        block.alive--;
        if (block.barrier.arrived > 0 && block.barrier.arrived == block.alive) part(block.barrier);
        switch_contexts(me.context, block.scheduler);
    }
}

inline uint32_t random_below(uint32_t n) {
    block.random = block.random * 1664525 + 1013904223;
    return block.random / 65536 % n;
}

// The i-th of `count` in the order that the launch's seed chose.
inline uint32_t ordered(uint32_t i, uint32_t count, uint32_t shift) {
    return block.order == FORWARD    ? i
           : block.order == BACKWARD ? count - 1 - i
                                     : (i + shift) % count;
}

// Lets every lane of a warp run until it waits; whether one could.
inline bool advance(uint32_t warp) {
    const uint32_t lanes = block.threads - warp * 32 < 32 ? block.threads - warp * 32 : 32,
                   shift = random_below(lanes);
    bool moved = false;
    for (uint32_t i = 0; i < lanes; i++) {
        const uint32_t thread = warp * 32 + ordered(i, lanes, shift);
        Fiber& fiber = block.fibers[thread];
        if (fiber.done || (fiber.waits_at && fiber.waits_at->turn == fiber.turn)) continue;
        block.current = &fiber, running = {thread, 0, 0}, moved = true;
        switch_contexts(block.scheduler, fiber.context);
    }
    return moved;
}

inline void run_block(uint32_t shared_bytes) {
    const uint32_t warps = (block.threads + 31) / 32;
    block.alive = block.threads;
    block.barrier = {};
    block.warps.assign(warps, Warp());
    block.shared = guarded(shared_bytes);
    while (block.fibers.size() < block.threads)
        block.fibers.emplace_back();  // They stay where they are.
    for (uint32_t i = 0; i < block.threads; i++) {
        Fiber& fiber = block.fibers[i];
        fiber.waits_at = nullptr, fiber.done = false, fiber.group = 0;
        if (fiber.stack) continue;
        fiber.stack = static_cast<unsigned char*>(aligned_alloc(64, STACK));
        ucontext_t& first = fiber.context.first;
        getcontext(&first);
        first.uc_stack.ss_sp = fiber.stack, first.uc_stack.ss_size = STACK;
        makecontext(&first, thread_body, 0);
    }
    while (block.alive > 0) {
        bool moved = false;
        for (uint32_t i = 0, shift = random_below(warps); i < warps; i++)
            while (advance(ordered(i, warps, shift))) moved = true;
        if (!moved) fail("all threads wait", block.barrier.line);
    }
    free_guarded(block.shared, shared_bytes);
}

// A kernel by its name. `call` takes pointers to the arguments, as cuLaunchKernel does.
struct Kernel {
    std::function<void(void**)> call;
    std::vector<size_t> argument_bytes;
    uint32_t most_threads;
    uint32_t most_shared = 48 << 10;
    bool native = false;  // It computes the whole grid in one call.
};
inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

struct Register {
    template <class... A>
    Register(const char* name, void (*kernel)(A...), uint32_t threads) {
        Kernel& entry = kernels()[name];
        entry.call = [kernel](void** arguments) {
            apply(kernel, arguments, std::index_sequence_for<A...>());
        };
        entry.argument_bytes = {sizeof(A)...};
        entry.most_threads = threads;
    }
    template <class... A, size_t... I>
    static void apply(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
        kernel(*static_cast<A*>(arguments[I])...);
    }
};

inline void launch(const char* name, const Kernel& kernel, uint3 grid, uint32_t threads,
                   uint32_t shared, void** arguments, uint32_t seed) {
    blockDim = {threads, 1, 1}, gridDim = grid;
    block.kernel = name, block.threads = threads, block.random = seed;
    block.order = static_cast<Order>(random_below(3)), block.late = random_below(2);
    block.call = [&] { kernel.call(arguments); };
    if (kernel.native) return block.call();
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) run_block(shared);
}

}  // namespace emulate

// What kernels call. See device.cuh for the same on a GPU.

inline void __syncthreads(int line = __builtin_LINE()) {
    if (emulate::meet(emulate::block.barrier, emulate::block.alive, line))
        emulate::part(emulate::block.barrier);
}
inline void __syncwarp(int line = __builtin_LINE()) {
    if (emulate::meet(emulate::warp(), 32, line)) emulate::part(emulate::warp());
}
inline float shuffle_xor(float x, int mask, int line = __builtin_LINE()) {
    return emulate::together<float>(line, x, [&](auto in, auto out) {
        for (int to = 0; to < 32; to++) out(to) = in(to ^ mask);
    });
}

inline void copy16(void* to, const void* from, bool there) {
    CHECK_16_BYTES(to);
    CHECK_16_BYTES(from);
    emulate::Fiber& me = *emulate::block.current;
    me.copies.push_back({static_cast<unsigned char*>(to),
                         there ? static_cast<const unsigned char*>(from) : nullptr, me.group});
}
inline void commit_copies() {
    emulate::block.current->group++;
    if (!emulate::block.late) emulate::land(0);
}
template <int LEFT>
void wait_copies() {
    emulate::land(LEFT);
}

inline float __uint_as_float(uint32_t x) {
    float y;
    memcpy(&y, &x, 4);
    return y;
}
inline uint32_t __float_as_uint(float x) {
    uint32_t y;
    memcpy(&y, &x, 4);
    return y;
}
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline float exp2_fast(float x) { return exp2f(x); }
inline float reciprocal_fast(float x) { return 1.f / x; }
template <class T>
T min(T a, T b) {
    return a < b ? a : b;
}
template <class T>
T max(T a, T b) {
    return a > b ? a : b;
}

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};
inline float widen(float x) { return x; }
inline float widen(bf16 x) { return __uint_as_float((uint32_t)x.bits << 16); }
inline float widen(f16 x) {
    _Float16 y;
    memcpy(&y, &x.bits, 2);
    return (float)y;
}
inline void narrow(float& to, float x) { to = x; }
inline void narrow(bf16& to, float x) {
    const uint32_t bits = __float_as_uint(x);
    to.bits = x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline void narrow(f16& to, float x) {
    const _Float16 y = (_Float16)x;
    memcpy(&to.bits, &y, 2);
}
template <class T>
uint32_t pack(float low, float high) {
    T l, h;
    narrow(l, low), narrow(h, high);
    return l.bits | (uint32_t)h.bits << 16;
}
template <class T>
void unpack(float& low, float& high, uint32_t two) {
    low = widen(T{(uint16_t)two}), high = widen(T{(uint16_t)(two >> 16)});
}

namespace emulate {
struct Matrices {
    uint32_t r[4];
};
struct MatrixRow {
    uint16_t at[8];
};
inline void load_matrices(uint32_t (&r)[4], const void* from, bool transposed, int line) {
    if (reinterpret_cast<uintptr_t>(from) % 16) fail("the row of a matrix is not aligned", line);
    MatrixRow row;
    memcpy(row.at, from, 16);
    const Matrices mine = together<Matrices>(line, row, [&](auto in, auto out) {
        for (int to = 0; to < 32; to++)
            for (int m = 0; m < 4; m++) {
                const int a = to / 4, b = to % 4 * 2;
                const uint32_t low = transposed ? in(m * 8 + b).at[a] : in(m * 8 + a).at[b];
                const uint32_t high =
                    transposed ? in(m * 8 + b + 1).at[a] : in(m * 8 + a).at[b + 1];
                out(to).r[m] = low | high << 16;
            }
    });
    memcpy(r, mine.r, sizeof mine.r);
}
}  // namespace emulate

inline void load_matrices(uint32_t (&r)[4], const void* row, int line = __builtin_LINE()) {
    emulate::load_matrices(r, row, false, line);
}
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row,
                                     int line = __builtin_LINE()) {
    emulate::load_matrices(r, row, true, line);
}

template <class T>
void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
              int line = __builtin_LINE()) {
    struct Fragments {
        float c[4];
        uint32_t a[4], b[2];
    };
    struct Sums {
        float c[4];
    };
    const Fragments mine = {{c[0], c[1], c[2], c[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
    const Sums sums = emulate::together<Sums>(line, mine, [](auto in, auto out) {
        float a[16][16], b[8][16];  // b is stored by columns
        for (int lane = 0; lane < 32; lane++) {
            const int row = lane / 4, column = lane % 4 * 2;
            for (int i = 0; i < 4; i++) {
                float* at = &a[row + i % 2 * 8][column + i / 2 * 8];
                unpack<T>(at[0], at[1], in(lane).a[i]);
            }
            for (int i = 0; i < 2; i++)
                unpack<T>(b[row][column + i * 8], b[row][column + i * 8 + 1], in(lane).b[i]);
        }
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < 4; i++) {
                const float *x = a[lane / 4 + i / 2 * 8], *y = b[lane % 4 * 2 + i % 2];
                float sum = in(lane).c[i];
                for (int k = 0; k < 16; k++) sum += x[k] * y[k];
                out(lane).c[i] = sum;
            }
    });
    memcpy(c, sums.c, sizeof sums.c);
}
