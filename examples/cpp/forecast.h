// The forecast loop, by the roles of the graphs that a bundle has, whatever family they are from.
#pragma once

#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "graph.h"

// Standard normal draws, z_dim for each sample: from a seed, or given.
struct Noise {
    std::vector<float> context;  // (context_draws, samples, z_dim)
    std::vector<float> future;   // (horizon, samples, z_dim)
};

// Sizes of a forecast, and how its frames are read.
struct Plan {
    int64_t frames;   // that were observed and are read
    int64_t samples;  // 1 for a deterministic model
    int64_t horizon;
    bool streams;  // all observed frames are read from zero states on, not a window of n_past
    bool fused;    // on the graph that makes a whole step

    // Chooses by what the bundle has. `context` is window, stream or empty for the manifest's. Throws a Failure.
    static Plan choose(const Bundle& bundle, const std::string& context, int64_t observed, int64_t samples, int64_t horizon);
    int64_t context_draws(const Bundle& bundle) const;
};

// What the observed frames give.
class Observer {
public:
    Observer(Engine& engine, int64_t frames);

    // Reads (frames, C, H, W) float32 in [0, 1].
    void read(const std::vector<float>& frames);

    Ort::Value encodings;                          // (frames, 1, ...); of a model without encoder, the frames themselves
    std::map<std::string, Ort::Value> conditions;  // what the decoder takes from a frame that was observed, at batch 1

    // The encoding of one frame, at batch 1.
    Ort::Value encoding(int64_t frame);

private:
    const Bundle& bundle_;
    std::optional<Graph> encoder_;
    std::optional<Graph> skip_;
    std::map<std::string, Ort::Value> skips_;
};

// Buffers and bound graphs for one plan.
class Rollout {
public:
    virtual ~Rollout() = default;

    // Returns (horizon, samples, C, H, W), which the next run overwrites.
    virtual Ort::Value& run(Observer& observer, const Noise& noise) = 0;

    static std::unique_ptr<Rollout> make(Engine& engine, const Plan& plan, Observer& observer);
};
