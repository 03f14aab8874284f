// The arithmetic of cuda/*.cuh in plain loops, compiled by the host's compiler: what the tests of the kernels call.

#include "../cuda/critic_patches.cuh"
#include "../cuda/distillation.cuh"
#include "../cuda/mcmc.cuh"
#include "../cuda/splat_adam.cuh"

extern "C" void splat_adam(SplatTensor* tensors, int n_tensors, AdamRule rule, Screen screen, int only_seen) {
    for (int k = 0; k < n_tensors; ++k)
        for (int64_t i = 0; i < tensors[k].size; ++i) move_one(tensors[k], rule, screen, only_seen != 0, i);
    if (screen.radii != nullptr)
        for (int64_t n = 0; n < screen.gaussians; ++n) add_to_screen(screen, n);
}

extern "C" void add_noise(const float* clean, const float* noise, Levels levels, int64_t size, int64_t count,
                          float* noisy) {
    for (int64_t i = 0; i < count; ++i) noisy[i] = noised(levels, size, clean[i], noise[i], i);
}

extern "C" void reconstruction(Reconstruction task) {
    const int64_t group = task.views * task.size;
    double loss = 0.0;
    for (int64_t begin = 0; begin < task.batch * task.size; begin += group) {
        Spreads sums{};
        for (int64_t i = begin; i < begin + group; ++i) add_to_spreads(task, i, sums);
        const float factor = rescaling(task, sums);
        for (int64_t i = begin; i < begin + group; ++i) loss += reconstruct(task, factor, i);
    }
    *task.loss = float(0.5 * loss / task.batch);
}

extern "C" void critic_patches(PatchTask task) {
    for (int32_t picture = 0; picture < task.cut.batch; ++picture)
        for (int32_t y = 0; y < task.cut.height; ++y)
            for (int32_t x = 0; x < task.cut.width; ++x) cut_pixel(task, picture, y, x);
}

extern "C" void critic_patches_backward(PatchTask task) {
    for (int32_t picture = 0; picture < task.cut.batch; ++picture)
        for (int32_t y = 0; y < task.cut.height; ++y)
            for (int32_t x = 0; x < task.cut.width; ++x) collect_pixel(task, picture, y, x);
    for (int32_t picture = 0; picture < task.cut.batch; ++picture)
        for (int32_t y = 0; y < task.cut.in_height; ++y)
            for (int32_t x = 0; x < task.cut.in_width; ++x) gather_pixel(task, picture, y, x);
}

extern "C" void perturb(Perturbation task) {
    for (int64_t n = 0; n < task.count; ++n) perturb(task, n);
}

extern "C" void relocate(Relocation task) {
    for (int64_t n = 0; n < task.count; ++n) relocate(task, n);
}
