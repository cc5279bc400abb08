#include "forecast.h"

#include <algorithm>

#include "failure.h"
#include "fused.h"
#include "separate.h"

Plan Plan::choose(const Bundle& bundle, const std::string& context, int64_t observed, int64_t samples, int64_t horizon) {
    const bool separate = bundle.is_separate();
    if (!separate && !bundle.has("step")) {
        throw Failure(
            "'" + bundle.path.string() +
            "' has neither step, nor encoder, predictor and decoder\n  export the bundle again with: svg-export ckpt.pt");
    }
    Plan plan{};
    plan.streams = context.empty() ? bundle.streams : context == "stream";
    if (plan.streams && bundle.has("prime") && !separate) {
        throw Failure("models of the family '" + bundle.family +
                          "' read windows of frames, and have no stream context\n  expected --context window",
                      USAGE);
    }
    // prime reads windows alone
    plan.fused = bundle.has("step") && !(plan.streams && separate);
    plan.samples = bundle.z_dim > 0 ? samples : 1;
    plan.horizon = horizon;
    if (observed < bundle.n_past) {
        throw Failure(std::to_string(observed) + " frame(s)\n  expected at least " + std::to_string(bundle.n_past) +
                      ", which the model reads");
    }
    plan.frames = plan.streams ? observed : bundle.n_past;
    return plan;
}

int64_t Plan::context_draws(const Bundle& bundle) const { return fused ? bundle.context_draws : frames - 1; }

Observer::Observer(Engine& engine, int64_t frames) : encodings(nullptr), bundle_(engine.bundle()) {
    std::vector<int64_t> shape{1, bundle_.channels, bundle_.height, bundle_.width};
    if (bundle_.has("encoder")) {
        encoder_.emplace(engine, "encoder", 1);
        shape = encoder_->spec().tensor("h").sized(1, 1);
    }
    shape.insert(shape.begin(), frames);
    encodings = allocate(shape);
    if (!bundle_.has("skip")) return;
    skip_.emplace(engine, "skip", 1);
    for (const TensorSpec& tensor : skip_->spec().inputs) {
        Ort::Value& value = skips_.emplace(tensor.name, skip_->allocate_for(tensor.name)).first->second;
        encoder_->output(tensor.name, value);
        skip_->input(tensor.name, value);
    }
    for (const TensorSpec& tensor : skip_->spec().outputs) {
        skip_->output(tensor.name, conditions.emplace(tensor.name, skip_->allocate_for(tensor.name)).first->second);
    }
}

void Observer::read(const std::vector<float>& frames) {
    const int64_t count_frames = shape_of(encodings).at(0),
                  skip_from = count_frames - 1 - (bundle_.last_frame_skip ? 0 : bundle_.skip_lag);
    if (!encoder_) {
        std::copy(frames.begin(), frames.end(), data(encodings));
        return;
    }
    const std::vector<int64_t> shape{1, bundle_.channels, bundle_.height, bundle_.width};
    Ort::Value picture = allocate(shape);
    encoder_->input("frame", picture);
    for (int64_t frame = 0; frame < count_frames; frame++) {
        std::copy_n(frames.begin() + frame * count(picture), count(picture), data(picture));
        Ort::Value h = encoding(frame);
        encoder_->output("h", h);
        encoder_->run();
        if (skip_ && frame == skip_from) skip_->run();
    }
}

Ort::Value Observer::encoding(int64_t frame) {
    std::vector<int64_t> shape = shape_of(encodings);
    shape.erase(shape.begin());
    return view(encodings, frame, shape);
}

std::unique_ptr<Rollout> Rollout::make(Engine& engine, const Plan& plan, Observer& observer) {
    if (plan.fused) return std::make_unique<FusedRollout>(engine, plan, observer);
    return std::make_unique<SeparateRollout>(engine, plan, observer);
}
