// One step of Adam over all raw parameters of a scene, and what densification wants to know of the step.
//
// Letters: N Gaussians, C views, D values a Gaussian. Adam after Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1, with
// the corrections of the bias folded into two numbers a tensor. Not differentiable.
#pragma once

#include "host_device.cuh"

// One parameter tensor [N, D] and its moments, contiguous float32.
struct SplatTensor {
    float* value;
    const float* gradient;
    float* mean;    // running mean of the gradient
    float* square;  // running mean of its square
    int64_t size;   // N * D
    int32_t width;  // D
    float rate;     // learning rate / (1 - beta1^step)
    float root;     // sqrt(1 - beta2^step)
};

struct AdamRule {
    float beta1;
    float beta2;
    float eps;
};

// How each Gaussian was seen in a step; `radii` null says that nothing is known.
struct Screen {
    const float* gradient;  // [C, N, 2] of the loss, by the screen positions
    const float* radii;     // [C, N], 0 where a Gaussian is not seen
    float* total;           // [N] += length of the gradient, over the views that see it
    float* count;           // [N] += number of those views
    int64_t gaussians;      // N
    int32_t views;          // C
};

HOST_DEVICE bool seen(const Screen& screen, int64_t gaussian) {
    for (int view = 0; view < screen.views; ++view)
        if (screen.radii[view * screen.gaussians + gaussian] > 0.0f) return true;
    return false;
}

HOST_DEVICE void move_value(const AdamRule& rule, float rate, float root, float gradient, float& value, float& mean,
                            float& square) {
    mean += (1.0f - rule.beta1) * (gradient - mean);
    square = rule.beta2 * square + (1.0f - rule.beta2) * gradient * gradient;
    value -= rate * mean / (sqrtf(square) / root + rule.eps);
}

// Value `i` of a tensor; one of a Gaussian that no view sees is left alone where `only_seen`.
HOST_DEVICE void move_one(const SplatTensor& tensor, const AdamRule& rule, const Screen& screen, bool only_seen,
                          int64_t i) {
    if (only_seen && !seen(screen, i / tensor.width)) return;
    move_value(rule, tensor.rate, tensor.root, tensor.gradient[i], tensor.value[i], tensor.mean[i], tensor.square[i]);
}

HOST_DEVICE void add_to_screen(const Screen& screen, int64_t gaussian) {
    float total = 0.0f, count = 0.0f;
    for (int view = 0; view < screen.views; ++view) {
        const int64_t place = view * screen.gaussians + gaussian;
        if (screen.radii[place] > 0.0f) {
            const float x = screen.gradient[2 * place], y = screen.gradient[2 * place + 1];
            total += sqrtf(x * x + y * y);
            count += 1.0f;
        }
    }
    screen.total[gaussian] += total;
    screen.count[gaussian] += count;
}
