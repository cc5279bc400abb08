#pragma once

#include "forecast.h"

// SVG on its separate graphs: z ~ prior(h), g = predictor([h, z]), frame = decoder(g, cond), h = encoder(frame).
class SeparateRollout : public Rollout {
public:
    SeparateRollout(Engine& engine, const Plan& plan, Observer& observer);
    Ort::Value& run(Observer& observer, const Noise& noise) override;

private:
    void bind_frames(Engine& engine, Observer& observer);
    void read_context(Observer& observer, const Noise& noise);
    void predict(Graph* gaussian, const float* eps);
    void decode_and_encode(int64_t step);

    const Plan plan_;
    const int64_t z_dim_;
    Observer& observer_;
    Graph predictor_, decoder_, encoder_;
    std::optional<Graph> prior_;
    std::optional<Graph> posterior_;             // at batch 1: it reads the same frames for every sample
    std::optional<Graph> skip_;                  // if the skips follow the forecast
    std::map<std::string, Ort::Value> buffers_;  // h, g, z; skip_* and cond_* of forecast frames
    std::map<const Graph*, std::pair<Ort::Value, Ort::Value>> gaussians_;  // mu, logvar
    Ort::Value frames_{nullptr};
};
