// Reads a bundle: a folder with ONNX graphs, and manifest.json, which says how they fit together.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

// Sizes of axes that the caller chooses.
constexpr int64_t BATCH = -1;
constexpr int64_t SHARED = -2;  // may be 1: the tensor is then the same for the whole batch

struct TensorSpec {
    std::string name;
    std::vector<int64_t> shape;

    // The shape for a batch; `shared` is the size of a shared axis.
    std::vector<int64_t> sized(int64_t batch, int64_t shared) const;
};

// A recurrent tensor: `output` of one run is `input` of the next.
struct StateSpec {
    std::string input;
    std::string output;
};

struct GraphSpec {
    std::string role;  // encoder, skip, posterior, prior, predictor, decoder, prime, step or decode
    std::string file;
    std::string sha256;
    uintmax_t bytes;
    std::vector<TensorSpec> inputs;
    std::vector<TensorSpec> outputs;
    std::vector<StateSpec> states;

    // Throws a Failure if there is none of this name.
    const TensorSpec& tensor(const std::string& name) const;
    bool has_input(const std::string& name) const;
    bool has_output(const std::string& name) const;
    bool is_state(const std::string& name) const;
};

struct Bundle {
    std::filesystem::path path;
    std::string id;
    std::string family;
    int64_t z_dim;  // noise per sample and step; 0: a deterministic model
    int64_t channels, height, width;
    int64_t n_past;         // observed frames of a window
    int64_t context_draws;  // vectors of noise that are drawn while a window is read
    int64_t skip_lag;       // the skip conditions are those of the last frame, or of the one before it
    bool last_frame_skip;   // they follow every forecast frame
    bool streams;           // all observed frames are read, not only the last n_past
    std::map<std::string, GraphSpec> graphs;

    // Reads and checks the manifest. Throws a Failure.
    static Bundle open(const std::filesystem::path& path);

    bool has(const std::string& role) const { return graphs.count(role) > 0; }
    bool is_separate() const { return has("encoder") && has("predictor") && has("decoder"); }
    const GraphSpec& graph(const std::string& role) const;

    // The bytes of a graph, checked against the manifest's size and SHA-256. Throws a Failure.
    std::string read_graph(const std::string& role) const;
};
