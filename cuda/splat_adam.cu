// The kernel of splat_adam.cuh: one launch for all tensors and the screen statistics.
//
// Blocks are dealt out to the tensors one after the other, the last ones to the statistics. So each block works on one
// tensor only, and reads and writes it four values at a time.

#include "splat_adam.cuh"

namespace {

constexpr int MAX_TENSORS = 8;
constexpr int VALUES_PER_THREAD = 4;

struct Work {
    SplatTensor tensors[MAX_TENSORS];
    unsigned end_block[MAX_TENSORS];  // the first block that is not this tensor's
    int n_tensors;
    AdamRule rule;
    ScreenStats screen;
    bool visible_only;
};

// Values `begin` to `begin` + 3, which start at a multiple of 16 bytes.
__device__ __forceinline__ void adam_float4(const SplatTensor& tensor, const AdamRule& rule, int64_t begin) {
    const float4 gradient = *reinterpret_cast<const float4*>(tensor.gradient + begin);
    float4 value = *reinterpret_cast<float4*>(tensor.value + begin);
    float4 exp_avg = *reinterpret_cast<float4*>(tensor.exp_avg + begin);
    float4 exp_avg_sq = *reinterpret_cast<float4*>(tensor.exp_avg_sq + begin);
    const float step_size = tensor.step_size, root = tensor.bias_correction2_sqrt;

    adam_value(rule, step_size, root, gradient.x, value.x, exp_avg.x, exp_avg_sq.x);
    adam_value(rule, step_size, root, gradient.y, value.y, exp_avg.y, exp_avg_sq.y);
    adam_value(rule, step_size, root, gradient.z, value.z, exp_avg.z, exp_avg_sq.z);
    adam_value(rule, step_size, root, gradient.w, value.w, exp_avg.w, exp_avg_sq.w);

    *reinterpret_cast<float4*>(tensor.value + begin) = value;
    *reinterpret_cast<float4*>(tensor.exp_avg + begin) = exp_avg;
    *reinterpret_cast<float4*>(tensor.exp_avg_sq + begin) = exp_avg_sq;
}

__global__ void __launch_bounds__(THREADS) splat_adam(const __grid_constant__ Work work) {
    unsigned first = 0;
    for (int k = 0; k < work.n_tensors; ++k) {
        if (blockIdx.x >= work.end_block[k]) {
            first = work.end_block[k];
            continue;
        }

        const SplatTensor& tensor = work.tensors[k];
        const int64_t begin = VALUES_PER_THREAD * (int64_t(blockIdx.x - first) * THREADS + threadIdx.x);
        const uintptr_t addresses = uintptr_t(tensor.value) | uintptr_t(tensor.gradient) | uintptr_t(tensor.exp_avg) |
                                    uintptr_t(tensor.exp_avg_sq);
        const bool aligned = addresses % sizeof(float4) == 0;

        if (aligned && !work.visible_only && begin + VALUES_PER_THREAD <= tensor.size) {
            adam_float4(tensor, work.rule, begin);
            return;
        }
        for (int64_t i = begin; i < begin + VALUES_PER_THREAD && i < tensor.size; ++i)
            adam_element(tensor, work.rule, work.screen, work.visible_only, i);
        return;
    }

    const int64_t gaussian = int64_t(blockIdx.x - first) * THREADS + threadIdx.x;
    if (gaussian < work.screen.gaussians) add_to_stats(work.screen, gaussian);
}

}  // namespace

// Returns a cudaError_t. All pointers are on the device of the stream; `tensors` itself is on the host. Without
// statistics `screen.radii` is null, and `visible_only` must be 0.
extern "C" int vlm3d_gs_splat_adam(const SplatTensor* tensors, int n_tensors, AdamRule rule, ScreenStats screen,
                                   int visible_only, void* stream) {
    if (n_tensors > MAX_TENSORS || (visible_only && screen.radii == nullptr)) return cudaErrorInvalidValue;

    Work work{};
    unsigned blocks = 0;
    for (int k = 0; k < n_tensors; ++k) {
        blocks += blocks_for((tensors[k].size + VALUES_PER_THREAD - 1) / VALUES_PER_THREAD);
        work.tensors[k] = tensors[k];
        work.end_block[k] = blocks;
    }
    work.n_tensors = n_tensors;
    work.rule = rule;
    work.screen = screen;
    work.visible_only = visible_only != 0;
    if (screen.radii != nullptr) blocks += blocks_for(screen.gaussians);
    if (blocks == 0) return cudaSuccess;

    splat_adam<<<blocks, THREADS, 0, static_cast<cudaStream_t>(stream)>>>(work);
    return cudaGetLastError();
}
