// What the whole library says of itself.

#include "host_device.cuh"

// Says what a number means that a launcher returned.
extern "C" const char* vlm3d_gs_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
