// What concerns the library as a whole.

#include "host_device.cuh"

// Returns CUDA's message for an error code of a launcher.
extern "C" const char* vlm3d_gs_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
