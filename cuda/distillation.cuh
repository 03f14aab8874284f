// The two halves of a reconstruction step of score distillation, before and after the network.
//
// Letters: B latents, V views a group, a latent is `size` values. z_t = signal z_0 + sigma eps; classifier-free guidance
// after Ho and Salimans 2022 (arXiv 2207.12598); the rescaling after Lin et al. 2023 (arXiv 2305.08891), section 3.4, over
// a group of views; the loss after Shi et al. 2023 (MVDream, arXiv 2308.16512): 0.5 |z - target|^2 / B.
#pragma once

#include "host_device.cuh"

// Tables of a noise process at the timestep of each latent.
struct Levels {
    const float* signal;   // [T]
    const float* sigma;    // [T]
    const int64_t* index;  // [B] into the tables
};

enum Predicts : int32_t { EPSILON = 0, V_PREDICTION = 1, SAMPLE = 2, FLOW = 3 };

struct Reconstruction {
    const float* latents;  // [B, size] clean latents of the renders; the loss is differentiated by these
    const float* noisy;    // [B, size] what the network was shown
    const float* without;  // [B, size] what it said to the negative prompt
    const float* given;    // [B, size] what it said to the prompt
    Levels levels;
    int32_t predicts;
    float scale;  // of the guidance
    float share;  // of the rescaling
    int32_t batch;
    int32_t views;
    int64_t size;
    float* gradient;  // [B, size] of the loss, by the latents
    float* loss;      // [1]
};

struct Spreads {  // sums over a group, of both predictions of the clean latents
    double guided;
    double guided_squares;
    double given;
    double given_squares;
};

HOST_DEVICE float noised(const Levels& levels, int64_t size, float clean, float noise, int64_t i) {
    const int64_t at = levels.index[i / size];
    return levels.signal[at] * clean + levels.sigma[at] * noise;
}

HOST_DEVICE float clean_of(int32_t predicts, float output, float noisy, float signal, float sigma) {
    constexpr float SMALLEST_SIGNAL = 1e-4f;
    if (predicts == EPSILON) return (noisy - sigma * output) / fmaxf(signal, SMALLEST_SIGNAL);
    if (predicts == V_PREDICTION) return signal * noisy - sigma * output;
    if (predicts == SAMPLE) return output;
    return noisy - sigma * output;
}

HOST_DEVICE float guided_clean(const Reconstruction& task, int64_t i) {
    const int64_t at = task.levels.index[i / task.size];
    const float without = task.without[i];
    const float output = without + task.scale * (task.given[i] - without);
    return clean_of(task.predicts, output, task.noisy[i], task.levels.signal[at], task.levels.sigma[at]);
}

HOST_DEVICE float given_clean(const Reconstruction& task, int64_t i) {
    const int64_t at = task.levels.index[i / task.size];
    return clean_of(task.predicts, task.given[i], task.noisy[i], task.levels.signal[at], task.levels.sigma[at]);
}

HOST_DEVICE void add_to_spreads(const Reconstruction& task, int64_t i, Spreads& sums) {
    const double guided = guided_clean(task, i), given = given_clean(task, i);
    sums.guided += guided;
    sums.guided_squares += guided * guided;
    sums.given += given;
    sums.given_squares += given * given;
}

HOST_DEVICE void add_to_spreads(const Spreads& more, Spreads& sums) {
    sums.guided += more.guided;
    sums.guided_squares += more.guided_squares;
    sums.given += more.given;
    sums.given_squares += more.given_squares;
}

HOST_DEVICE double spread(double sum, double squares, int64_t count) {
    return sqrt(fmax(squares - sum * sum / double(count), 0.0) / double(count - 1));
}

// What guided clean latents are multiplied with: share * (spread given / spread guided) + 1 - share.
HOST_DEVICE float rescaling(const Reconstruction& task, const Spreads& sums) {
    if (task.share == 0.0f) return 1.0f;
    const int64_t count = task.views * task.size;
    const double wanted = spread(sums.given, sums.given_squares, count);
    const double found = fmax(spread(sums.guided, sums.guided_squares, count), 1e-8);
    return float(task.share * (wanted / found) + (1.0 - task.share));
}

// Writes the gradient of value `i` and returns what it adds to the loss, times 2 B.
HOST_DEVICE double reconstruct(const Reconstruction& task, float factor, int64_t i) {
    const float residual = task.latents[i] - factor * guided_clean(task, i);
    task.gradient[i] = residual / float(task.batch);
    return double(residual) * residual;
}
