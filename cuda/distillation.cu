// The kernels of distillation.cuh.
//
// The rescaling needs the spread of a whole group before the first target is known, and the loss needs all of them. All
// blocks of the launch wait for each other at these two places instead of returning to the host. Sums are taken in a fixed
// order: the same input gives the same bits.

#include <cooperative_groups.h>

#include "distillation.cuh"

namespace {

constexpr int MOST_SLICES = 64;  // blocks that share a group
constexpr int WARPS = THREADS / 32;

__global__ void __launch_bounds__(THREADS)
    add_noise(const float* clean, const float* noise, Levels levels, int64_t size, int64_t count, float* noisy) {
    const int64_t i = int64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (i < count) noisy[i] = noised(levels, size, clean[i], noise[i], i);
}

// Adds up over the block; the result is thread 0's.
__device__ double block_sum(double value) {
    __shared__ double warps[WARPS];
    for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int warp = 1; warp < WARPS; ++warp) value += warps[warp];
    return value;
}

// gridDim: slices of a group, groups.
__global__ void __launch_bounds__(THREADS) reconstruction(Reconstruction task, Spreads* spreads, double* losses) {
    const auto grid = cooperative_groups::this_grid();
    const int64_t begin = blockIdx.y * task.views * task.size, end = begin + task.views * task.size;
    const int64_t stride = int64_t(gridDim.x) * THREADS, first = begin + int64_t(blockIdx.x) * THREADS + threadIdx.x;
    const unsigned block = blockIdx.y * gridDim.x + blockIdx.x;
    __shared__ float factor;

    if (task.share != 0.0f) {
        Spreads own{};
        for (int64_t i = first; i < end; i += stride) add_to_spreads(task, i, own);
        const Spreads sum{block_sum(own.guided), block_sum(own.guided_squares), block_sum(own.given),
                          block_sum(own.given_squares)};
        if (threadIdx.x == 0) spreads[block] = sum;
        grid.sync();
    }
    if (threadIdx.x == 0) {
        Spreads group{};
        if (task.share != 0.0f)
            for (unsigned slice = 0; slice < gridDim.x; ++slice)
                add_to_spreads(spreads[blockIdx.y * gridDim.x + slice], group);
        factor = rescaling(task, group);
    }
    __syncthreads();
    double loss = 0.0;
    for (int64_t i = first; i < end; i += stride) loss += reconstruct(task, factor, i);
    loss = block_sum(loss);
    if (threadIdx.x == 0) losses[block] = loss;
    grid.sync();
    if (block != 0) return;
    loss = 0.0;
    for (unsigned other = threadIdx.x; other < gridDim.x * gridDim.y; other += THREADS) loss += losses[other];
    loss = block_sum(loss);
    if (threadIdx.x == 0) *task.loss = float(0.5 * loss / task.batch);
}

}  // namespace

// Both return a cudaError_t; pointers are on the device of the stream.

extern "C" int vlm3d_gs_add_noise(const float* clean, const float* noise, Levels levels, int64_t size, int64_t count,
                                  float* noisy, void* stream) {
    if (count == 0) return cudaSuccess;
    add_noise<<<blocks_for(count), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(clean, noise, levels, size, count,
                                                                                  noisy);
    return cudaGetLastError();
}

// `scratch`: room for 5 doubles a block, `scratch_blocks` blocks, at least one a group; more blocks share a group's work.
extern "C" int vlm3d_gs_reconstruction(Reconstruction task, double* scratch, int scratch_blocks, void* stream) {
    int device = 0, processors = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    if (error != cudaSuccess) return error;
    const int groups = task.batch / task.views;
    if (groups == 0 || scratch_blocks < groups) return cudaErrorInvalidValue;
    const int64_t wanted = blocks_for(task.views * task.size), room = scratch_blocks / groups;
    int64_t slices = processors / groups;  // all blocks must be on the device at once
    for (const int64_t limit : {wanted, room, int64_t(MOST_SLICES)}) slices = limit < slices ? limit : slices;
    const dim3 grid(slices > 1 ? unsigned(slices) : 1u, unsigned(groups));
    Spreads* spreads = reinterpret_cast<Spreads*>(scratch);
    double* losses = scratch + 4 * int64_t(scratch_blocks);
    void* arguments[] = {&task, &spreads, &losses};
    error = cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(reconstruction), grid, dim3(THREADS), arguments, 0,
                                        static_cast<cudaStream_t>(stream));
    return error == cudaSuccess ? cudaGetLastError() : error;
}
