// Shared by all kernels. The arithmetic in the .cuh files compiles for the device and, with any C++ compiler, for the host,
// where the tests check it.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define HOST_DEVICE __host__ __device__ __forceinline__
#else
#include <cmath>
#include <cstdint>
#define HOST_DEVICE inline
#endif
#include <cstdint>

#ifdef __CUDACC__
constexpr int THREADS = 256;

// Returns how many blocks of `THREADS` hold `count` threads.
inline unsigned blocks_for(int64_t count) { return static_cast<unsigned>((count + THREADS - 1) / THREADS); }
#endif
