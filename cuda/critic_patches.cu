// The kernels of critic_patches.cuh, a thread a pixel. Nothing lies between pictures and patches on the way there; the way
// back gathers, so that it needs no atomics and repeats bit for bit.

#include "critic_patches.cuh"

namespace {

constexpr int TILE_X = 32, TILE_Y = 8;

dim3 tiles(int32_t width, int32_t height, int32_t batch) {
    return dim3((width + TILE_X - 1) / TILE_X, (height + TILE_Y - 1) / TILE_Y, batch);
}

__global__ void __launch_bounds__(TILE_X * TILE_Y) cut_pixels(const __grid_constant__ PatchTask task) {
    const int x = blockIdx.x * TILE_X + threadIdx.x, y = blockIdx.y * TILE_Y + threadIdx.y;
    if (x < task.cut.width && y < task.cut.height) cut_pixel(task, blockIdx.z, y, x);
}

__global__ void __launch_bounds__(TILE_X * TILE_Y) collect_pixels(const __grid_constant__ PatchTask task) {
    const int x = blockIdx.x * TILE_X + threadIdx.x, y = blockIdx.y * TILE_Y + threadIdx.y;
    if (x < task.cut.width && y < task.cut.height) collect_pixel(task, blockIdx.z, y, x);
}

__global__ void __launch_bounds__(TILE_X * TILE_Y) gather_pixels(const __grid_constant__ PatchTask task) {
    const int x = blockIdx.x * TILE_X + threadIdx.x, y = blockIdx.y * TILE_Y + threadIdx.y;
    if (x < task.cut.in_width && y < task.cut.in_height) gather_pixel(task, blockIdx.z, y, x);
}

}  // namespace

// Both return a cudaError_t; pointers are on the device of the stream.

extern "C" int vlm3d_gs_critic_patches(PatchTask task, void* stream) {
    if (task.cut.batch == 0) return cudaSuccess;
    cut_pixels<<<tiles(task.cut.width, task.cut.height, task.cut.batch), dim3(TILE_X, TILE_Y), 0,
                 static_cast<cudaStream_t>(stream)>>>(task);
    return cudaGetLastError();
}

extern "C" int vlm3d_gs_critic_patches_backward(PatchTask task, void* stream) {
    if (task.cut.batch == 0) return cudaSuccess;
    collect_pixels<<<tiles(task.cut.width, task.cut.height, task.cut.batch), dim3(TILE_X, TILE_Y), 0,
                     static_cast<cudaStream_t>(stream)>>>(task);
    gather_pixels<<<tiles(task.cut.in_width, task.cut.in_height, task.cut.batch), dim3(TILE_X, TILE_Y), 0,
                    static_cast<cudaStream_t>(stream)>>>(task);
    return cudaGetLastError();
}
