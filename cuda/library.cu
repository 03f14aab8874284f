// What concerns the library as a whole.
//
// It holds CUDA's runtime, which needs a driver of its own CUDA version or newer; torch may be built for an older one.

#include "host_device.cuh"

// Returns CUDA's message for an error code of a launcher.
extern "C" const char* vlm3d_gs_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

// Returns 0 if this library's runtime can use a card through the machine's driver, otherwise its error code.
extern "C" int vlm3d_gs_check() {
    int cards = 0;
    return cudaGetDeviceCount(&cards);
}
