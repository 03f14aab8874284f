// The arithmetic of cuda/*.cuh in plain loops, compiled by the host's compiler: the kernel tests call these.

#include "../cuda/mcmc.cuh"
#include "../cuda/splat_adam.cuh"

extern "C" void splat_adam(SplatTensor* tensors, int n_tensors, AdamRule rule, ScreenStats screen, int visible_only) {
    for (int k = 0; k < n_tensors; ++k)
        for (int64_t i = 0; i < tensors[k].size; ++i) adam_element(tensors[k], rule, screen, visible_only != 0, i);
    if (screen.radii != nullptr)
        for (int64_t n = 0; n < screen.gaussians; ++n) add_to_stats(screen, n);
}

extern "C" void perturb(Perturbation task) {
    for (int64_t n = 0; n < task.count; ++n) perturb(task, n);
}

extern "C" void relocate(Relocation task) {
    for (int64_t n = 0; n < task.count; ++n) relocate(task, n);
}
