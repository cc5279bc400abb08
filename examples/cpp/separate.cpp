#include "separate.h"

#include <cmath>

#include "failure.h"

SeparateRollout::SeparateRollout(Engine& engine, const Plan& plan, Observer& observer)
    : plan_(plan),
      z_dim_(engine.bundle().z_dim),
      observer_(observer),
      predictor_(engine, "predictor", plan.samples),
      decoder_(engine, "decoder", plan.samples),
      encoder_(engine, "encoder", plan.samples) {
    const Bundle& bundle = engine.bundle();
    if (bundle.has("posterior")) posterior_.emplace(engine, "posterior", 1);
    if (bundle.has("prior")) prior_.emplace(engine, "prior", plan.samples);
    for (const char* name : {"h", "g", "z"}) {
        if (name[0] != 'z' || z_dim_ > 0) buffers_.emplace(name, predictor_.allocate_for(name));
    }
    predictor_.input("h", buffers_.at("h"));
    predictor_.output("g", buffers_.at("g"));
    decoder_.input("g", buffers_.at("g"));
    if (z_dim_ > 0) predictor_.input("z", buffers_.at("z"));
    for (auto* graph : {&prior_, &posterior_}) {
        if (!*graph) continue;
        auto& [mu, logvar] =
            gaussians_.emplace(&**graph, std::pair{(*graph)->allocate_for("mu"), (*graph)->allocate_for("logvar")})
                .first->second;
        (*graph)->output("mu", mu);
        (*graph)->output("logvar", logvar);
    }
    if (prior_) prior_->input("h", buffers_.at("h"));
    bind_frames(engine, observer);
}

void SeparateRollout::bind_frames(Engine& engine, Observer& observer) {
    std::vector<int64_t> shape = decoder_.spec().tensor("frame").sized(plan_.samples, 1);
    shape.insert(shape.begin(), plan_.horizon);
    frames_ = allocate(shape);
    encoder_.output("h", buffers_.at("h"));
    if (!engine.bundle().last_frame_skip) {
        for (auto& [name, value] : observer.conditions) decoder_.input(name, value);
        return;
    }
    skip_.emplace(engine, "skip", plan_.samples);
    for (const TensorSpec& tensor : skip_->spec().inputs) {
        Ort::Value& value = buffers_.emplace(tensor.name, skip_->allocate_for(tensor.name)).first->second;
        encoder_.output(tensor.name, value);
        skip_->input(tensor.name, value);
    }
    for (const TensorSpec& tensor : skip_->spec().outputs) {
        skip_->output(tensor.name, buffers_.emplace(tensor.name, skip_->allocate_for(tensor.name)).first->second);
    }
}

Ort::Value& SeparateRollout::run(Observer& observer, const Noise& noise) {
    // 1. Read the context: the posterior sees the next frame, prior and predictor the one before it.
    read_context(observer, noise);
    // 2. Forecast in closed loop: the latent comes from the prior, and every forecast frame is encoded again.
    Ort::Value last = observer.encoding(plan_.frames - 1);
    spread(last, buffers_.at("h"));
    if (skip_) {
        for (auto& [name, value] : observer.conditions) decoder_.input(name, value);
    }
    for (int64_t step = 0; step < plan_.horizon; step++) {
        if (prior_) prior_->run();
        predict(prior_ ? &*prior_ : nullptr, noise.future.data() + step * plan_.samples * z_dim_);
        decode_and_encode(step);
    }
    return frames_;
}

void SeparateRollout::read_context(Observer& observer, const Noise& noise) {
    predictor_.reset();
    if (prior_) prior_->reset();
    if (posterior_) posterior_->reset();
    for (int64_t frame = 0; frame + 1 < plan_.frames; frame++) {
        Ort::Value h = observer.encoding(frame), next = observer.encoding(frame + 1);
        if (posterior_) {
            posterior_->input("h", next);
            posterior_->run();
        }
        spread(h, buffers_.at("h"));
        if (prior_) prior_->run();
        predict(posterior_ ? &*posterior_ : nullptr, noise.context.data() + frame * plan_.samples * z_dim_);
    }
}

// z = mu + exp(logvar / 2) * eps. Without a Gaussian (fixed prior) the noise is the latent; a deterministic model has none.
void SeparateRollout::predict(Graph* gaussian, const float* eps) {
    if (z_dim_ > 0) {
        float* z = data(buffers_.at("z"));
        const int64_t size = plan_.samples * z_dim_;
        if (count(buffers_.at("z")) != size) throw Failure("the latents of the predictor are not z_dim numbers");
        if (gaussian == nullptr) {
            std::copy_n(eps, size, z);
        } else {
            auto& [mu, logvar] = gaussians_.at(gaussian);
            const int64_t given = count(mu);  // one row for all samples, or one for each
            if (given % z_dim_ != 0 || count(logvar) != given) throw Failure("the Gaussians are not of z_dim numbers");
            for (int64_t i = 0; i < size; i++) z[i] = data(mu)[i % given] + std::exp(data(logvar)[i % given] / 2) * eps[i];
        }
    }
    predictor_.run();
}

void SeparateRollout::decode_and_encode(int64_t step) {
    Ort::Value frame = view(frames_, step, decoder_.spec().tensor("frame").sized(plan_.samples, 1));
    decoder_.output("frame", frame);
    decoder_.run();
    if (step + 1 == plan_.horizon) return;  // nothing reads the encoding of the last frame
    encoder_.input("frame", frame);
    encoder_.run();
    if (!skip_) return;
    skip_->run();
    for (const TensorSpec& tensor : skip_->spec().outputs) decoder_.input(tensor.name, buffers_.at(tensor.name));
}
