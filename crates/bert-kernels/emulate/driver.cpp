// A CUDA driver for tests: memory is the host's, a kernel runs when it is launched, and what a real
// driver refuses is refused with its error. It has the functions that cudarc calls for Candle and
// for our kernels.
//
// Variables of the environment:
//
// * EMULATE_DEVICES (1), EMULATE_CAPABILITY (80), EMULATE_DRIVER (13000), EMULATE_MEMORY (bytes; no
//   limit): the machine.
// * EMULATE_CANDLE_KERNELS=copies: Candle has kernels that copy and no others.
// * EMULATE_FATBINS=no: our kernels cannot be loaded.
// * EMULATE_DOWNLOADS=no: copies to the host are errors.
// * EMULATE_VERBOSE: the names of kernels that are looked up are printed.
#include <signal.h>
#include <unistd.h>

#include "emulate.h"
#include "stream.h"

using emulate::Kernel;
typedef int Result;
enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    NOT_FOUND = 500,
    INVALID_CONTEXT = 201,
    UNSUPPORTED_PTX_VERSION = 222,
    ILLEGAL_STATE = 401,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_ISOLATION = 905
};
constexpr uint32_t MOST_SHARED = 163 << 10;

static long setting(const char* name, long otherwise) {
    const char* value = getenv(name);
    return value ? strtol(value, nullptr, 10) : otherwise;
}

static std::map<uint64_t, size_t> allocations;  // sizes by address
static size_t allocated;

static Result submitted(void* stream, std::function<void()> work) {
    return submit(stream, std::move(work)), SUCCESS;
}
#define LOCK std::lock_guard<std::recursive_mutex> guard(emulated_lock())
#define NEEDS_CONTEXT \
    if (!current_context()) return INVALID_CONTEXT
#define NOT_IN_CAPTURE(stream) \
    if (stream_of(stream).graph) return CAPTURE_UNSUPPORTED

// Memory that ends where it should makes wrong addresses faults.
static void report_fault(int, siginfo_t* info, void*) {
    if (emulate::block.current) {
        char text[256];
        const int length =
            snprintf(text, sizeof text, "%s, block (%u, %u, %u), thread %u: no memory at %p\n",
                     emulate::block.kernel, blockIdx.x, blockIdx.y, blockIdx.z, emulate::running.x,
                     info->si_addr);
        if (write(2, text, length) < 0) _exit(139);
    }
    signal(SIGSEGV, SIG_DFL);
}
__attribute__((constructor)) static void watch_faults() {
    struct sigaction action = {};
    action.sa_sigaction = report_fault, action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
}

extern "C" {
Result cuInit(unsigned) { return setting("EMULATE_DEVICES", 1) ? SUCCESS : NO_DEVICE; }
Result cuDriverGetVersion(int* version) {
    return *version = setting("EMULATE_DRIVER", 13000), SUCCESS;
}
Result cuDeviceGetCount(int* count) { return *count = setting("EMULATE_DEVICES", 1), SUCCESS; }
Result cuDeviceGet(int* device, int i) {
    return *device = i, i >= 0 && i < setting("EMULATE_DEVICES", 1) ? SUCCESS : INVALID_DEVICE;
}
Result cuDeviceGetName(char* name, int length, int) {
    return snprintf(name, length, "emulated"), SUCCESS;
}
Result cuDeviceGetAttribute(int* value, int attribute, int) {
    const long capability = setting("EMULATE_CAPABILITY", 80);
    switch (attribute) {
        case 16: *value = 4; break;        // multiprocessors
        case 38: *value = 1 << 20; break;  // bytes of L2 cache
        case 75: *value = capability / 10; break;
        case 76: *value = capability % 10; break;
        case 97: *value = MOST_SHARED; break;  // for a block that opts in
        case 115: *value = 1; break;           // memory pools
        default: *value = 0;
    }
    return SUCCESS;
}
Result cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = (void*)1, SUCCESS; }
Result cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
Result cuDevicePrimaryCtxRetain(void** context, int) { return *context = (void*)1, SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
Result cuCtxGetCurrent(void** context) { return *context = current_context(), SUCCESS; }
Result cuCtxSetCurrent(void* context) { return current_context() = context, SUCCESS; }
Result cuCtxSynchronize() {
    LOCK;
    return is_any_capturing() ? CAPTURE_UNSUPPORTED : SUCCESS;
}
Result cuGetErrorName(Result, const char** name) { return *name = "CUDA_ERROR", SUCCESS; }
Result cuGetErrorString(Result result, const char** text) {
    switch (result) {
        case OUT_OF_MEMORY: *text = "out of memory"; break;
        case NO_DEVICE: *text = "no CUDA-capable device is detected"; break;
        case INVALID_DEVICE: *text = "invalid device ordinal"; break;
        case ILLEGAL_STATE: *text = "the operation cannot be performed in the present state"; break;
        case NOT_FOUND: *text = "named symbol not found"; break;
        case UNSUPPORTED_PTX_VERSION:
            *text = "the provided PTX was compiled with an unsupported toolchain.";
            break;
        case INVALID_CONTEXT: *text = "invalid device context"; break;
        case CAPTURE_UNSUPPORTED: *text = "operation not permitted when stream is capturing"; break;
        default: *text = "invalid argument";
    }
    return SUCCESS;
}

Result cuMemAllocAsync(uint64_t* address, size_t bytes, void*) {
    LOCK;
    NEEDS_CONTEXT;
    const long limit = setting("EMULATE_MEMORY", 0);
    if (limit && allocated + bytes > (size_t)limit) return OUT_OF_MEMORY;
    unsigned char* memory = emulate::guarded(bytes);
    if (!memory) return OUT_OF_MEMORY;
    *address = (uint64_t)memory;
    allocations[*address] = bytes;
    allocated += bytes;
    return SUCCESS;
}
Result cuMemFreeAsync(uint64_t address, void* stream) {
    LOCK;
    auto found = allocations.find(address);
    if (found == allocations.end()) return INVALID_VALUE;
    if (stream_of(stream).graph)
        return SUCCESS;  // It belongs to the graph, which may be launched until the end.
    emulate::free_guarded((unsigned char*)address, found->second);
    allocated -= found->second;
    allocations.erase(found);
    return SUCCESS;
}
Result cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    return cuMemAllocAsync(address, bytes, nullptr);
}
Result cuMemFree_v2(uint64_t address) { return cuMemFreeAsync(address, nullptr); }
Result cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    LOCK;
    NEEDS_CONTEXT;
    NOT_IN_CAPTURE(stream);
    memcpy((void*)to, from, bytes);
    return SUCCESS;
}
Result cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    LOCK;
    NEEDS_CONTEXT;
    NOT_IN_CAPTURE(stream);
    static const char* downloads = getenv("EMULATE_DOWNLOADS");
    if (downloads && !strcmp(downloads, "no")) return ILLEGAL_STATE;
    memcpy(to, (void*)from, bytes);
    return SUCCESS;
}
Result cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    LOCK;
    return submitted(stream, [=] { memmove((void*)to, (void*)from, bytes); });
}
Result cuMemsetD8Async(uint64_t to, unsigned char byte, size_t bytes, void* stream) {
    LOCK;
    return submitted(stream, [=] { memset((void*)to, byte, bytes); });
}

Result cuModuleLoadData(void** module, const void* image) {
    NEEDS_CONTEXT;
    static const char* loads = getenv("EMULATE_FATBINS");
    const bool is_fatbin = !strncmp(static_cast<const char*>(image), "// --fatbin", 11);
    if (is_fatbin && loads && !strcmp(loads, "no")) return UNSUPPORTED_PTX_VERSION;
    return *module = (void*)1, SUCCESS;
}
Result cuModuleUnload(void*) { return SUCCESS; }
Result cuModuleGetFunction(void** function, void*, const char* name) {
    LOCK;
    NEEDS_CONTEXT;
    auto found = emulate::kernels().find(name);
    static const char* candle = getenv("EMULATE_CANDLE_KERNELS");
    const bool copies = !strncmp(name, "copy2d", 6) || !strncmp(name, "ucopy", 5);
    const bool hidden = candle && !strcmp(candle, "copies") && !copies;
    const bool exists = found != emulate::kernels().end() && !(found->second.native && hidden);
    if (getenv("EMULATE_VERBOSE"))
        fprintf(stderr, "%s kernel %s\n", exists ? "emulated" : "missing", name);
    if (!exists) return NOT_FOUND;
    *function = &*found;
    return SUCCESS;
}
typedef std::pair<const std::string, Kernel> Named;
Result cuFuncSetAttribute(void* function, int attribute, int value) {
    LOCK;
    if (attribute != 8) return INVALID_VALUE;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    if (value > (int)MOST_SHARED) return INVALID_VALUE;
    static_cast<Named*>(function)->second.most_shared = value;
    return SUCCESS;
}
Result cuFuncGetAttribute(int* value, int, void*) { return *value = 0, SUCCESS; }
Result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                      unsigned by, unsigned bz, unsigned shared, void* stream, void** parameters,
                      void**) {
    LOCK;
    NEEDS_CONTEXT;
    const Named& named = *static_cast<Named*>(function);
    const Kernel& kernel = named.second;
    if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 65535 || gz > 65535 || !bx || !by || !bz ||
        bx * by * bz > kernel.most_threads || shared > kernel.most_shared) {
        return INVALID_VALUE;
    }
    std::vector<std::vector<char>> arguments;
    for (size_t i = 0; i < kernel.argument_bytes.size(); i++) {
        const char* bytes = static_cast<const char*>(parameters[i]);
        arguments.emplace_back(bytes, bytes + kernel.argument_bytes[i]);
    }
    return submitted(stream, [&named, gx, gy, gz, bx, shared, arguments] {
        static uint32_t seed;
        std::vector<void*> pointers;
        for (auto& argument : arguments) pointers.push_back((void*)argument.data());
        emulate::launch(named.first.c_str(), named.second, {gx, gy, gz}, bx, shared,
                        pointers.data(), seed++ * 2654435761u);
    });
}

Result cuStreamCreate(void** stream, unsigned) { return *stream = malloc(1), SUCCESS; }
Result cuStreamDestroy_v2(void* stream) {
    LOCK;
    forget(stream);
    free(stream);
    return SUCCESS;
}
Result cuStreamSynchronize(void* stream) {
    LOCK;
    NOT_IN_CAPTURE(stream);
    return SUCCESS;
}
// An event from before the capture.
Result cuStreamWaitEvent(void* stream, void*, unsigned) {
    LOCK;
    return stream_of(stream).graph ? CAPTURE_ISOLATION : SUCCESS;
}
Result cuStreamIsCapturing(void* stream, int* status) {
    LOCK;
    *status = stream_of(stream).graph != nullptr;
    return SUCCESS;
}
Result cuStreamBeginCapture_v2(void* stream, int) {
    LOCK;
    NOT_IN_CAPTURE(stream);
    if (!stream) return CAPTURE_UNSUPPORTED;  // the legacy stream
    stream_of(stream).graph = new Graph;
    return SUCCESS;
}
Result cuStreamEndCapture(void* stream, void** graph) {
    LOCK;
    *graph = stream_of(stream).graph;
    stream_of(stream).graph = nullptr;
    return *graph ? SUCCESS : INVALID_VALUE;
}
Result cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    return *executable = new Graph(*static_cast<Graph*>(graph)), SUCCESS;
}
Result cuGraphUpload(void*, void*) { return SUCCESS; }
Result cuGraphLaunch(void* executable, void*) {
    LOCK;
    for (auto& work : static_cast<Graph*>(executable)->work) work();
    return SUCCESS;
}
Result cuGraphDestroy(void* graph) { return delete static_cast<Graph*>(graph), SUCCESS; }
Result cuGraphExecDestroy(void* executable) {
    return delete static_cast<Graph*>(executable), SUCCESS;
}
Result cuEventCreate(void** event, unsigned) { return *event = malloc(1), SUCCESS; }
Result cuEventDestroy_v2(void* event) { return free(event), SUCCESS; }
Result cuEventRecord(void*, void*) { return SUCCESS; }
}
