// From pictures to the normalised patches of a Qwen-VL vision tower, and the gradient back.
//
// Clamp to 0..1, resize (bicubic, antialiased), clamp again, normalise, cut into patches in the order of the merger, each
// repeated over time; after Qwen2-VL (Wang et al. 2024, arXiv 2409.12191), section 2.1. A resize is linear and separable:
// a table a side says which pixels an output pixel reads and how much of each; the transposed tables lead back.
#pragma once

#include "host_device.cuh"

// Output pixel i of a side takes weights[i * taps + k] of input pixel first[i] + k; weights beyond the side are 0 and not
// read, since `count` ends before them.
struct Taps {
    const int32_t* first;
    const int32_t* count;
    const float* weights;
    int32_t taps;
};

struct Cut {
    int32_t batch, in_height, in_width, height, width;
    int32_t patch, merge, frames;
    float mean[3], std[3];
};

struct PatchTask {
    Cut cut;
    Taps rows, columns;       // of the output, or transposed: of the input
    const float* images;      // [batch, in_height, in_width, 3]
    float* patches;           // [batch * patches of a picture, 3 * frames * patch * patch]
    uint8_t* inside;          // [batch, height, width] bit c: channel c was within 0..1 before the second clamp
    const float* d_patches;   // as patches
    float* d_pixels;          // [batch, height, width, 3] between the two steps of the backward pass
    float* d_images;          // as images
};

HOST_DEVICE float unit(float value) { return fminf(fmaxf(value, 0.0f), 1.0f); }

HOST_DEVICE bool within(float value) { return value >= 0.0f && value <= 1.0f; }

// Where channel 0, frame 0 of an output pixel lies among the patches; the next frame is patch^2 on, the next channel
// frames * patch^2.
HOST_DEVICE int64_t patch_place(const Cut& cut, int32_t picture, int32_t y, int32_t x) {
    const int32_t row = y / cut.patch, column = x / cut.patch;
    const int32_t token_rows = cut.height / (cut.patch * cut.merge), token_columns = cut.width / (cut.patch * cut.merge);
    const int64_t token = (int64_t(picture) * token_rows + row / cut.merge) * token_columns + column / cut.merge;
    const int64_t place = (token * cut.merge + row % cut.merge) * cut.merge + column % cut.merge;
    return (place * 3 * cut.frames * cut.patch + y % cut.patch) * cut.patch + x % cut.patch;
}

// Output pixel (y, x) of a picture: all channels, all frames.
HOST_DEVICE void cut_pixel(const PatchTask& task, int32_t picture, int32_t y, int32_t x) {
    const Cut& cut = task.cut;
    float color[3] = {0.0f, 0.0f, 0.0f};
    for (int32_t j = 0; j < task.rows.count[y]; ++j) {
        const float down = task.rows.weights[y * task.rows.taps + j];
        const int64_t line = (int64_t(picture) * cut.in_height + task.rows.first[y] + j) * cut.in_width;
        for (int32_t k = 0; k < task.columns.count[x]; ++k) {
            const float weight = down * task.columns.weights[x * task.columns.taps + k];
            const float* pixel = task.images + 3 * (line + task.columns.first[x] + k);
            for (int c = 0; c < 3; ++c) color[c] += weight * unit(pixel[c]);
        }
    }
    const int64_t frame = int64_t(cut.patch) * cut.patch;
    float* place = task.patches + patch_place(cut, picture, y, x);
    uint8_t inside = 0;
    for (int c = 0; c < 3; ++c) {
        if (within(color[c])) inside |= uint8_t(1 << c);
        const float value = (unit(color[c]) - cut.mean[c]) / cut.std[c];
        for (int32_t t = 0; t < cut.frames; ++t) place[(c * cut.frames + t) * frame] = value;
    }
    task.inside[(int64_t(picture) * cut.height + y) * cut.width + x] = inside;
}

// Backwards, first: the gradient of output pixel (y, x), its frames added up, nothing where the second clamp held.
HOST_DEVICE void collect_pixel(const PatchTask& task, int32_t picture, int32_t y, int32_t x) {
    const Cut& cut = task.cut;
    const int64_t frame = int64_t(cut.patch) * cut.patch;
    const int64_t at = (int64_t(picture) * cut.height + y) * cut.width + x;
    const float* place = task.d_patches + patch_place(cut, picture, y, x);
    for (int c = 0; c < 3; ++c) {
        float sum = 0.0f;
        for (int32_t t = 0; t < cut.frames; ++t) sum += place[(c * cut.frames + t) * frame];
        task.d_pixels[3 * at + c] = (task.inside[at] >> c & 1) ? sum / cut.std[c] : 0.0f;
    }
}

// Backwards, second: the gradient of input pixel (y, x), from all output pixels that read it. The tables are the
// transposed ones.
HOST_DEVICE void gather_pixel(const PatchTask& task, int32_t picture, int32_t y, int32_t x) {
    const Cut& cut = task.cut;
    float sum[3] = {0.0f, 0.0f, 0.0f};
    for (int32_t j = 0; j < task.rows.count[y]; ++j) {
        const float up = task.rows.weights[y * task.rows.taps + j];
        const int64_t line = (int64_t(picture) * cut.height + task.rows.first[y] + j) * cut.width;
        for (int32_t k = 0; k < task.columns.count[x]; ++k) {
            const float weight = up * task.columns.weights[x * task.columns.taps + k];
            const float* pixel = task.d_pixels + 3 * (line + task.columns.first[x] + k);
            for (int c = 0; c < 3; ++c) sum[c] += weight * pixel[c];
        }
    }
    const int64_t at = 3 * ((int64_t(picture) * cut.in_height + y) * cut.in_width + x);
    for (int c = 0; c < 3; ++c) task.d_images[at + c] = within(task.images[at + c]) ? sum[c] : 0.0f;
}
