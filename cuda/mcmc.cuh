// The per-Gaussian work of densification by sampling (Kheradmand et al. 2024, arXiv 2404.09591): the noise of each step,
// and the new opacity and scale of a Gaussian that shares its place with copies.
//
// Raw parameters: logarithms of the standard deviations, logits of the opacities, quaternions wxyz of any norm.
#pragma once

#include "host_device.cuh"

// means + noise_scale * gate * covariance * noise; the gate is 1/2 at the opacity `min_opacity` and falls to 0 above.
struct Perturbation {
    float* means;                 // [N, 3], changed in place
    const float* log_scales;      // [N, 3]
    const float* quats;           // [N, 4]
    const float* opacity_logits;  // [N]
    const float* noise;           // [N, 3] standard normal
    int64_t count;                // N
    float noise_scale;
    float min_opacity;
    float sharpness;
};

struct Relocation {
    const float* opacity_logits;  // [N]
    const float* log_scales;      // [N, 3]
    const int32_t* copies;        // [N] how many share the place afterwards, 1 or more
    float* new_opacity_logits;    // [N]
    float* new_log_scales;        // [N, 3]
    int64_t count;                // N
};

HOST_DEVICE void perturb(const Perturbation& task, int64_t n) {
    const float opacity = 1.0f / (1.0f + expf(-task.opacity_logits[n]));
    const float gated = task.noise_scale / (1.0f + expf(-task.sharpness * (task.min_opacity - opacity)));

    float w = task.quats[4 * n], x = task.quats[4 * n + 1], y = task.quats[4 * n + 2], z = task.quats[4 * n + 3];
    float square = w * w + x * x + y * y + z * z;
    if (square < 1e-24f) {  // a zero quaternion counts as the identity
        w = square = 1.0f;
        x = y = z = 0.0f;
    }
    const float twice = 2.0f / square;
    const float rotation[3][3] = {
        {1.0f - twice * (y * y + z * z), twice * (x * y - w * z), twice * (x * z + w * y)},
        {twice * (x * y + w * z), 1.0f - twice * (x * x + z * z), twice * (y * z - w * x)},
        {twice * (x * z - w * y), twice * (y * z + w * x), 1.0f - twice * (x * x + y * y)}};

    float along[3];  // the noise along the Gaussian's axes, times their variances
    for (int axis = 0; axis < 3; ++axis) {
        along[axis] = 0.0f;
        for (int k = 0; k < 3; ++k) along[axis] += rotation[k][axis] * task.noise[3 * n + k];
        along[axis] *= expf(2.0f * task.log_scales[3 * n + axis]);
    }

    for (int k = 0; k < 3; ++k) {
        float offset = 0.0f;
        for (int axis = 0; axis < 3; ++axis) offset += rotation[k][axis] * along[axis];
        task.means[3 * n + k] += gated * offset;
    }
}

// Equation 9: `copies` Gaussians in one place that together transmit what the one did. Their scale is the old one times
// o / sum_j C(copies, j) (-1)^(j + 1) o'^j / sqrt(j), so that what they hide, integrated along a line through the centre,
// stays the same. This is the paper's double sum, by the hockey-stick identity.
HOST_DEVICE void relocate(const Relocation& task, int64_t n) {
    const double logit = task.opacity_logits[n];
    const int32_t copies = task.copies[n];

    const double log_transmittance = -(fmax(logit, 0.0) + log1p(exp(-fabs(logit)))) / copies;  // log(1 - o')
    const double opacity = -expm1(log_transmittance);
    double term = copies * opacity, hidden = term;
    for (int32_t j = 2; j <= copies; ++j) {
        term *= -opacity * (copies - j + 1) / j;
        hidden += term / sqrt(double(j));
    }

    const double factor = 1.0 / (1.0 + exp(-logit)) / hidden;
    task.new_opacity_logits[n] = float(log(opacity) - log_transmittance);
    for (int axis = 0; axis < 3; ++axis)
        task.new_log_scales[3 * n + axis] = float(task.log_scales[3 * n + axis] + log(factor));
}
