// The kernels of mcmc.cuh: one thread for each Gaussian.

#include "mcmc.cuh"

namespace {

__global__ void __launch_bounds__(THREADS) perturb_all(Perturbation task) {
    const int64_t n = int64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (n < task.count) perturb(task, n);
}

__global__ void __launch_bounds__(THREADS) relocate_all(Relocation task) {
    const int64_t n = int64_t(blockIdx.x) * THREADS + threadIdx.x;
    if (n < task.count) relocate(task, n);
}

}  // namespace

// Both return a cudaError_t; pointers are on the device of the stream.

extern "C" int vlm3d_gs_perturb(Perturbation task, void* stream) {
    if (task.count == 0) return cudaSuccess;
    perturb_all<<<blocks_for(task.count), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(task);
    return cudaGetLastError();
}

extern "C" int vlm3d_gs_relocate(Relocation task, void* stream) {
    if (task.count == 0) return cudaSuccess;
    relocate_all<<<blocks_for(task.count), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(task);
    return cudaGetLastError();
}
