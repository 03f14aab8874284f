// One step of Adam over all raw parameters of a scene, and the screen statistics that densification reads.
//
// Letters: N Gaussians, C views, D values a Gaussian. Adam after Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1, with
// the bias corrections folded into two numbers a tensor. Not differentiable.
#pragma once

#include "host_device.cuh"

// One parameter tensor [N, D] and its moments, contiguous float32.
struct SplatTensor {
    float* value;
    const float* gradient;
    float* exp_avg;               // running mean of the gradient
    float* exp_avg_sq;            // running mean of its square
    int64_t size;                 // N * D
    int32_t width;                // D
    float step_size;              // learning rate / (1 - beta1^step)
    float bias_correction2_sqrt;  // sqrt(1 - beta2^step)
};

struct AdamRule {
    float beta1;
    float beta2;
    float eps;
};

// How the views of a step see each Gaussian; without statistics `radii` is null.
struct ScreenStats {
    const float* gradient;  // [C, N, 2] of the loss, with respect to the screen positions
    const float* radii;     // [C, N], 0 where a Gaussian is not seen
    float* total;           // [N] += length of the gradient, over the views that see it
    float* count;           // [N] += number of those views
    int64_t gaussians;      // N
    int32_t views;          // C
};

HOST_DEVICE bool is_visible(const ScreenStats& screen, int64_t gaussian) {
    for (int view = 0; view < screen.views; ++view)
        if (screen.radii[view * screen.gaussians + gaussian] > 0.0f) return true;
    return false;
}

HOST_DEVICE void adam_value(const AdamRule& rule, float step_size, float bias_correction2_sqrt, float gradient,
                            float& value, float& exp_avg, float& exp_avg_sq) {
    exp_avg += (1.0f - rule.beta1) * (gradient - exp_avg);
    exp_avg_sq = rule.beta2 * exp_avg_sq + (1.0f - rule.beta2) * gradient * gradient;
    value -= step_size * exp_avg / (sqrtf(exp_avg_sq) / bias_correction2_sqrt + rule.eps);
}

// Value `i` of a tensor. With `visible_only`, values of Gaussians that no view sees stay as they are.
HOST_DEVICE void adam_element(const SplatTensor& tensor, const AdamRule& rule, const ScreenStats& screen,
                              bool visible_only, int64_t i) {
    if (visible_only && !is_visible(screen, i / tensor.width)) return;
    adam_value(rule, tensor.step_size, tensor.bias_correction2_sqrt, tensor.gradient[i], tensor.value[i],
               tensor.exp_avg[i], tensor.exp_avg_sq[i]);
}

HOST_DEVICE void add_to_stats(const ScreenStats& screen, int64_t gaussian) {
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
