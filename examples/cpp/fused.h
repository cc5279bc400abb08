#pragma once

#include "forecast.h"

// `prime` reads the context, `step` makes a frame, or a latent that `decode` makes a frame of.
class FusedRollout : public Rollout {
public:
    FusedRollout(Engine& engine, const Plan& plan, Observer& observer);
    Ort::Value& run(Observer& observer, const Noise& noise) override;

private:
    void bind_prime(Engine& engine, Observer& observer);
    void bind_decode(Engine& engine, Observer& observer);
    void read_context(Observer& observer, const Noise& noise);
    void decode();

    const Plan plan_;
    std::optional<Graph> prime_;
    std::optional<Graph> decode_;
    Graph step_;
    Ort::Value h_seq_{nullptr};  // for a prime that reads one row per sample
    Ort::Value eps_prime_{nullptr};
    Ort::Value eps_{nullptr};                   // (horizon, samples, z_dim)
    std::map<std::string, Ort::Value> primed_;  // what prime gives beside states
    std::map<std::string, Ort::Value> shown_;   // what a step gives to look at, (horizon, samples, ...)
    std::vector<std::string> decoded_;          // names of those that decode reads
    Ort::Value frames_{nullptr};                // that decode gives
};
