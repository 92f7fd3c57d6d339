// SPDX-License-Identifier: Apache-2.0
//
// The names of CUDA that fdk.cu uses, for a C++ compiler: included before it (-include cuda_host.h).  The threads of a
// block are fibres of one thread: each runs to the next barrier, then the next one goes on, so that barriers mean what
// they mean on the device.  Blocks run one after the other.

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>

using std::max;
using std::min;

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim;

#define DEVICE inline
#define SHARED static

// ---------------------------------------------------------------------------------------------- float16

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

static inline float float_of_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

#define __float_as_uint bits_of
#define __uint_as_float float_of_bits

static inline float float_of_half(unsigned short half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 1023u;
    if (exponent == 31) return float_of_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * std::ldexp((float)fraction, -24);
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

// To the nearest, ties to even.
static inline unsigned short half_of_float(float value) {
    const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u;
    const float size = std::fabs(value);
    if (std::isnan(value)) return (unsigned short)(sign | 0x7e00u);
    if (size >= 65520.0f) return (unsigned short)(sign | 0x7c00u);
    if (size < 6.103515625e-05f) return (unsigned short)(sign | (uint32_t)std::nearbyint(std::ldexp(size, 24)));
    const uint32_t small = (bits & 0x7fffffffu) - (112u << 23);
    return (unsigned short)(sign | (small + 0xfffu + (small >> 13 & 1u)) >> 13);
}

static inline float reciprocal(float value) { return 1.0f / value; }
static inline int __float2int_rd(float value) { return (int)std::floor(value); }
template <class T>
static inline T __ldg(const T* address) {
    return *address;
}

// ------------------------------------------------------------------------------------- layered textures

using cudaTextureObject_t = unsigned long long;

struct LayeredTexture {
    const void* pixels;  // (layer, height, width)
    int width, height, layers, half;
};

// Point sampling with clamped coordinates, as the device is set up.
template <class T>
static inline T tex2DLayered(cudaTextureObject_t texture, float x, float y, int layer) {
    const LayeredTexture& t = *(const LayeredTexture*)texture;
    const int column = std::clamp((int)std::floor(x), 0, t.width - 1), row = std::clamp((int)std::floor(y), 0, t.height - 1);
    const size_t at = ((size_t)layer * t.height + row) * t.width + column;
    return t.half ? float_of_half(((const unsigned short*)t.pixels)[at]) : ((const float*)t.pixels)[at];
}

// ---------------------------------------------------------------------------------------------- fibres

namespace fibres {

static constexpr size_t STACK_BYTES = 64 << 10, MOST_THREADS = 1024;

struct Fibre {
    Index index;
    bool started, done;
    jmp_buf place;
};

static Fibre block[MOST_THREADS];
static std::vector<char> stacks;
static jmp_buf scheduler;
static size_t current;
static void (*body)(const void*);
static const void* arguments;
static bool any_true, any_true_before;

// To the scheduler and back.  ucontext only makes the stacks: its switches ask the kernel each time.
static void leave() {
    if (_setjmp(block[current].place) == 0) _longjmp(scheduler, 1);
}

// A fibre outlives its block: it waits here for the next one.
static void enter() {
    for (;;) {
        threadIdx = block[current].index;
        body(arguments);
        block[current].done = true;
        leave();
    }
}

static void wait() {
    leave();
    threadIdx = block[current].index;
}

static void resume(Fibre& fibre) {
    if (_setjmp(scheduler) != 0) return;
    if (fibre.started) _longjmp(fibre.place, 1);
    fibre.started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks.data() + current * STACK_BYTES;
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = nullptr;
    makecontext(&context, enter, 0);
    setcontext(&context);
}

static void run_block() {
    const size_t n = (size_t)blockDim.x * blockDim.y * blockDim.z;
    if (stacks.empty()) stacks.resize(MOST_THREADS * STACK_BYTES);
    for (size_t i = 0; i < n; ++i) {
        block[i].index = {(unsigned)(i % blockDim.x), (unsigned)(i / blockDim.x % blockDim.y), (unsigned)(i / blockDim.x / blockDim.y)};
        block[i].done = false;
    }
    any_true = any_true_before = false;
    for (size_t left = n; left > 0;) {
        size_t arrived = 0;
        for (current = 0; current < n; ++current) {
            if (block[current].done) continue;
            resume(block[current]);
            if (block[current].done)
                --left;
            else
                ++arrived;
        }
        // Some ended while others wait at a barrier: the device would hang, or worse.
        if (left > 0 && arrived != n) std::abort();
        any_true_before = any_true;
        any_true = false;
    }
}

static void run_grid(const unsigned* shape, void (*kernel)(const void*), const void* args) {
    blockDim = {shape[3], shape[4], shape[5]};
    body = kernel;
    arguments = args;
    for (blockIdx.z = 0; blockIdx.z < shape[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < shape[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < shape[0]; ++blockIdx.x) run_block();
}

}  // namespace fibres

#define __syncthreads fibres::wait
static inline int __syncthreads_or(int found) {
    fibres::any_true |= found != 0;
    fibres::wait();
    return fibres::any_true_before;
}

// Kernels without barriers need no fibres.
static void run_plainly(const unsigned* shape, void (*kernel)(const void*), const void* args) {
    blockDim = {shape[3], shape[4], shape[5]};
    for (blockIdx.z = 0; blockIdx.z < shape[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < shape[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < shape[0]; ++blockIdx.x)
                for (threadIdx.z = 0; threadIdx.z < blockDim.z; ++threadIdx.z)
                    for (threadIdx.y = 0; threadIdx.y < blockDim.y; ++threadIdx.y)
                        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel(args);
}

// A kernel, and beside it a function that runs a grid of it: (grid and block shape, arguments, their size) -> 0, or -1
// where the caller's idea of the arguments' size is wrong.
#define HOST_KERNEL(name, Arguments, run)                                                        \
    static void name##_body(const Arguments& a);                                                 \
    extern "C" int name(const unsigned* shape, const void* args, unsigned long bytes) {          \
        if (bytes != sizeof(Arguments)) return -1;                                               \
        run(shape, [](const void* p) { name##_body(*(const Arguments*)p); }, args);              \
        return 0;                                                                                \
    }                                                                                            \
    static void name##_body(const Arguments& a)
#define KERNEL(name, Arguments) HOST_KERNEL(name, Arguments, run_plainly)
#define BARRIER_KERNEL(name, Arguments) HOST_KERNEL(name, Arguments, fibres::run_grid)
