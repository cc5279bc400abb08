// ONNX Runtime, seen from the forecast loop: graphs bound to buffers, with states that stay in buffers between two runs.
#pragma once

#define ORT_API_MANUAL_INIT  // so that a library older than the headers gets a message, see Engine
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "bundle.h"

// The sessions of a bundle, each checked against the manifest and opened when it is first asked for.
class Engine {
public:
    // Throws a Failure if the library is older than the headers.
    Engine(const Bundle& bundle, int threads);

    Ort::Session& session(const std::string& role);
    const Bundle& bundle() const { return bundle_; }

private:
    const Bundle& bundle_;
    Ort::Env env_;  // the first
    Ort::SessionOptions options_;
    std::map<std::string, Ort::Session> sessions_;
};

// float32 tensors. The first owns its memory; the second is a part of another one's, `index` rows along the first axis.
Ort::Value allocate(const std::vector<int64_t>& shape);
Ort::Value view(Ort::Value& whole, int64_t index, const std::vector<int64_t>& shape);

std::vector<int64_t> shape_of(const Ort::Value& value);
int64_t count(const Ort::Value& value);
float* data(Ort::Value& value);

// Writes a tensor of batch 1 once for each place along the batch axis, the only axis in which the two may differ.
void spread(Ort::Value& one, Ort::Value& all);

// One graph for one size of batch. What is bound stays bound, and its memory stays the caller's.
class Graph {
public:
    Graph(Engine& engine, const std::string& role, int64_t batch);

    Ort::Value allocate_for(const std::string& name, int64_t shared = 1) const;
    void input(const std::string& name, Ort::Value& value);
    void output(const std::string& name, Ort::Value& value);

    // The buffer of a state that the next run reads.
    Ort::Value& state(const std::string& name);
    // Lets the next run, and only that, read this in place of a state.
    void read_once(const std::string& name, Ort::Value& value);
    // Makes all states zeros.
    void reset();

    // Runs the graph; what it wrote as states is what the next run reads.
    void run();

    const GraphSpec& spec() const { return spec_; }

private:
    const GraphSpec& spec_;
    Ort::Session& session_;
    Ort::IoBinding binding_;
    int64_t batch_;
    // Two sets: a run reads one and writes the other, as an input must never be an output too.
    std::map<std::string, Ort::Value> states_[2];
    int current_ = 0;
    std::map<std::string, Ort::Value*> once_;
};
