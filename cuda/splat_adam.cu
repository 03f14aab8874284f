// The kernel of splat_adam.cuh: one launch for all tensors and the screen statistics.
//
// Blocks are dealt out to the tensors one after the other, the last ones to the statistics; so a block works on one
// tensor, and reads and writes it four values at a time.

#include "splat_adam.cuh"

namespace {

constexpr int MOST_TENSORS = 8;
constexpr int AT_ONCE = 4;

struct Work {
    SplatTensor tensors[MOST_TENSORS];
    unsigned last_block[MOST_TENSORS];  // the first block that is not this tensor's
    int n_tensors;
    AdamRule rule;
    Screen screen;
    bool only_seen;
};

__global__ void __launch_bounds__(THREADS) splat_adam(const __grid_constant__ Work work) {
    unsigned first = 0;
    for (int k = 0; k < work.n_tensors; ++k) {
        if (blockIdx.x >= work.last_block[k]) {
            first = work.last_block[k];
            continue;
        }
        const SplatTensor& tensor = work.tensors[k];
        const int64_t begin = AT_ONCE * (int64_t(blockIdx.x - first) * THREADS + threadIdx.x);
        const uintptr_t places = uintptr_t(tensor.value) | uintptr_t(tensor.gradient) | uintptr_t(tensor.mean) |
                                 uintptr_t(tensor.square);
        if (work.only_seen || begin + AT_ONCE > tensor.size || places % sizeof(float4) != 0) {
            for (int64_t i = begin; i < begin + AT_ONCE && i < tensor.size; ++i)
                move_one(tensor, work.rule, work.screen, work.only_seen, i);
            return;
        }
        const float4 gradient = *reinterpret_cast<const float4*>(tensor.gradient + begin);
        float4 value = *reinterpret_cast<float4*>(tensor.value + begin);
        float4 mean = *reinterpret_cast<float4*>(tensor.mean + begin);
        float4 square = *reinterpret_cast<float4*>(tensor.square + begin);
        move_value(work.rule, tensor.rate, tensor.root, gradient.x, value.x, mean.x, square.x);
        move_value(work.rule, tensor.rate, tensor.root, gradient.y, value.y, mean.y, square.y);
        move_value(work.rule, tensor.rate, tensor.root, gradient.z, value.z, mean.z, square.z);
        move_value(work.rule, tensor.rate, tensor.root, gradient.w, value.w, mean.w, square.w);
        *reinterpret_cast<float4*>(tensor.value + begin) = value;
        *reinterpret_cast<float4*>(tensor.mean + begin) = mean;
        *reinterpret_cast<float4*>(tensor.square + begin) = square;
        return;
    }
    const int64_t gaussian = int64_t(blockIdx.x - first) * THREADS + threadIdx.x;
    if (gaussian < work.screen.gaussians) add_to_screen(work.screen, gaussian);
}

}  // namespace

// Returns a cudaError_t. All pointers are on the device of the stream; `tensors` itself is on the host. Where
// `screen.radii` is null there are no statistics, and `only_seen` must be 0.
extern "C" int vlm3d_gs_splat_adam(const SplatTensor* tensors, int n_tensors, AdamRule rule, Screen screen,
                                   int only_seen, void* stream) {
    if (n_tensors > MOST_TENSORS || (only_seen && screen.radii == nullptr)) return cudaErrorInvalidValue;
    Work work{};
    unsigned blocks = 0;
    for (int k = 0; k < n_tensors; ++k) {
        blocks += blocks_for((tensors[k].size + AT_ONCE - 1) / AT_ONCE);
        work.tensors[k] = tensors[k];
        work.last_block[k] = blocks;
    }
    work.n_tensors = n_tensors;
    work.rule = rule;
    work.screen = screen;
    work.only_seen = only_seen != 0;
    if (screen.radii != nullptr) blocks += blocks_for(screen.gaussians);
    if (blocks == 0) return cudaSuccess;
    splat_adam<<<blocks, THREADS, 0, static_cast<cudaStream_t>(stream)>>>(work);
    return cudaGetLastError();
}
