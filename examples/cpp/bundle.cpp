#include "bundle.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <set>

#include "failure.h"
#include "files.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr int SCHEMA_VERSION = 1;
constexpr uintmax_t MANIFEST_LIMIT = 4 << 20;  // bytes
constexpr int DEPTH_LIMIT = 32;                // tables in tables: what walks through them calls itself
constexpr int64_t GRAPH_LIMIT = 2LL << 30;  // bytes; also the limit of an ONNX file
constexpr int64_t ELEMENT_LIMIT = 1LL << 28;   // of a tensor at batch 1
const char* const EXPORT_AGAIN = "\n  export the bundle again with: svg-export ckpt.pt";

int64_t number(const json& table, const char* key, int64_t low, int64_t high) {
    const json& value = table.at(key);
    const bool fits = value.is_number_integer() && value >= low && value <= high;
    if (!fits) {
        throw Failure(std::string(key) + " is " + value.dump().substr(0, 40) + ", expected " + std::to_string(low) + " to " +
                      std::to_string(high));
    }
    return value;
}

bool is_inside(const std::string& file) {
    const auto plain = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-' || c == '.' || c == '/'; };
    const fs::path path(file);
    return !file.empty() && std::all_of(file.begin(), file.end(), plain) && path.is_relative() &&
           std::find(path.begin(), path.end(), "..") == path.end();
}

TensorSpec read_tensor(const json& table) {
    TensorSpec tensor{table.at("name"), {}};
    int64_t elements = 1;
    for (const json& size : table.at("shape")) {
        if (size.is_string()) {
            if (size != "batch" && size != "cond_batch")
                throw Failure(tensor.name + " has an axis of unknown size " + size.dump());
            tensor.shape.push_back(size == "batch" ? BATCH : SHARED);
            continue;
        }
        const bool fits = size.is_number_integer() && size >= 1 && size <= 65536;
        if (!fits || (elements *= size.get<int64_t>()) > ELEMENT_LIMIT) throw Failure(tensor.name + " is too large");
        tensor.shape.push_back(size);
    }
    if (table.at("dtype") != "float32") throw Failure(tensor.name + " is " + table.at("dtype").dump() + ", expected float32");
    return tensor;
}

std::vector<TensorSpec> read_tensors(const json& tables) {
    std::vector<TensorSpec> tensors;
    for (const json& table : tables) tensors.push_back(read_tensor(table));
    return tensors;
}

// An output X_out is the next input X. Without its state it would be lost, and the step begin from zeros again.
void check_states(const GraphSpec& spec) {
    std::set<std::string> outputs;
    for (const TensorSpec& tensor : spec.outputs) outputs.insert(tensor.name);
    std::multiset<std::pair<std::string, std::string>> given, expected;
    for (const StateSpec& state : spec.states) given.emplace(state.input, state.output);
    for (const TensorSpec& tensor : spec.inputs) {
        if (outputs.count(tensor.name + "_out") > 0) expected.emplace(tensor.name, tensor.name + "_out");
    }
    if (given == expected) return;
    const auto told = [](const auto& pairs) { return json(pairs).dump().substr(0, 200); };
    throw Failure(spec.role + ": the states are " + told(given) + ", expected " + told(expected));
}

GraphSpec read_graph_spec(const std::string& role, const json& table) {
    const uintmax_t bytes = number(table, "bytes", 1, GRAPH_LIMIT);
    GraphSpec spec{role, table.at("file"), table.at("sha256"), bytes, {}, {}, {}};
    if (!is_inside(spec.file)) throw Failure(role + ": the file is not a plain path inside the bundle");
    spec.inputs = read_tensors(table.at("inputs"));
    spec.outputs = read_tensors(table.at("outputs"));
    for (const json& state : table.value("states", json::array())) {
        spec.states.push_back({state.at("input"), state.at("output")});
        const StateSpec& pair = spec.states.back();
        if (spec.tensor(pair.input).sized(BATCH, BATCH) != spec.tensor(pair.output).sized(BATCH, BATCH)) {
            throw Failure(role + ": a state has another shape before a step than after it");
        }
    }
    check_states(spec);
    return spec;
}

// Frames are read and written by the size in the manifest.
void check_frames(const Bundle& bundle, const GraphSpec& spec) {
    for (const auto* tensors : {&spec.inputs, &spec.outputs}) {
        for (const TensorSpec& tensor : *tensors) {
            const bool fits = tensor.shape == std::vector<int64_t>{BATCH, bundle.channels, bundle.height, bundle.width};
            if (tensor.name == "frame" && !fits)
                throw Failure(spec.role + ": its frames are not of the size of the manifest's");
        }
    }
}

std::string one_of(const json& value, const char* key, const std::vector<std::string>& expected) {
    if (std::find(expected.begin(), expected.end(), value) == expected.end()) {
        throw Failure(std::string(key) + " is " + value.dump().substr(0, 40) + ", expected one of " + json(expected).dump());
    }
    return value;
}

// Older bundles have a variant in its place.
std::string read_prior(const json& model) {
    const std::map<std::string, std::string> of_variant = {{"lp", "learned"}, {"fp", "fixed"}, {"det", "none"}};
    if (model.contains("prior") || !model.contains("variant")) {
        return one_of(model.at("prior"), "prior", {"learned", "fixed", "none"});
    }
    return of_variant.at(one_of(model.at("variant"), "variant", {"lp", "fp", "det"}));
}

// Which graphs need which others: without them, a loop would end in the middle, or forecast something else.
void check_roles(const Bundle& bundle) {
    const auto needs = [&](bool needed, const char* role) {
        if (needed && !bundle.has(role)) throw Failure(std::string("there is no graph ") + role + ", which the others need");
    };
    const bool steps = bundle.has("step"), encodes = bundle.has("encoder");
    needs(bundle.has("prime") || bundle.has("decode"), "step");
    needs(steps && (encodes || !bundle.graph("step").has_input("h")), "prime");
    needs(steps && !bundle.graph("step").has_output("frame"), "decode");
    needs(bundle.has("skip"), "encoder");
    const auto is_skip = [](const TensorSpec& tensor) { return tensor.name.compare(0, 5, "skip_") == 0; };
    const std::vector<TensorSpec> encoded = encodes ? bundle.graph("encoder").outputs : std::vector<TensorSpec>{};
    needs(bundle.last_frame_skip || std::any_of(encoded.begin(), encoded.end(), is_skip), "skip");
}

// The loops run the graphs that there are: with others than the prior needs, they would forecast something else.
void check_prior(const Bundle& bundle, const std::string& prior) {
    const bool learned = prior == "learned", none = prior == "none";
    if ((bundle.z_dim == 0) != none) throw Failure("z_dim is " + std::to_string(bundle.z_dim) + " with the prior " + prior);
    const auto check = [&](const char* role, bool expected) {
        if (bundle.has(role) != expected) {
            throw Failure(std::string("there is ") + (expected ? "no" : "a") + " graph " + role + ", but the prior is " +
                          prior);
        }
    };
    if (bundle.is_separate()) {
        check("posterior", !none);
        check("prior", learned);
    }
    if (bundle.has("step") && bundle.graph("step").has_output("mu") != learned) {
        throw Failure(std::string("step gives ") + (learned ? "no mu" : "mu") + ", but the prior is " + prior);
    }
}

Bundle read_manifest(const fs::path& path, const json& manifest) {
    const json &frame = manifest.at("frame"), &rule = manifest.at("generation"), &model = manifest.at("model");
    one_of(manifest.at("format"), "format", {"svg-bundle"});
    if (frame.at("range") != json::array({0.0, 1.0}))
        throw Failure("range is " + frame.at("range").dump() + ", expected [0, 1]");
    Bundle bundle{};
    bundle.path = path;
    bundle.id = manifest.at("bundle_id");
    bundle.family = model.at("family");
    bundle.z_dim = number(model, "z_dim", 0, 65536);
    const std::string colours = one_of(frame.at("colour_order"), "colour_order", {"gray", "RGB"});
    bundle.channels = number(frame, "channels", 1, 3);
    if (bundle.channels != (colours == "gray" ? 1 : 3)) {
        throw Failure("channels is " + std::to_string(bundle.channels) + " with the colour_order " + colours);
    }
    bundle.height = number(frame, "height", 1, 65536);
    bundle.width = number(frame, "width", 1, 65536);
    bundle.n_past = number(rule, "n_past", 2, 1024);
    bundle.skip_lag = number(rule, "skip_lag", 0, 1);
    bundle.last_frame_skip = rule.at("last_frame_skip");
    bundle.streams = one_of(rule.value("context", json("window")), "context", {"window", "stream"}) == "stream";
    const bool says_draws = rule.contains("context_draws") && !rule.at("context_draws").is_null();
    bundle.context_draws = says_draws ? number(rule, "context_draws", 0, 1024) : bundle.n_past - 1;
    if (!manifest.at("variants").contains("fp32")) {
        throw Failure("'" + path.string() + "' has no fp32 variant\n  export it with: svg-export ckpt.pt", BACKEND_MISSING);
    }
    for (const auto& [role, table] : manifest.at("variants").at("fp32").at("graphs").items()) {
        bundle.graphs.emplace(role, read_graph_spec(role, table));
        check_frames(bundle, bundle.graphs.at(role));
    }
    check_roles(bundle);
    check_prior(bundle, read_prior(model));
    return bundle;
}

void check_version(const fs::path& file, const json& manifest) {
    const json version = manifest.is_object() ? manifest.value("schema_version", json()) : json();
    if (!version.is_number_integer() || version != SCHEMA_VERSION) {
        throw Failure("'" + file.string() + "' has schema version " + version.dump().substr(0, 40) +
                      "; this program reads version " + std::to_string(SCHEMA_VERSION) +
                      "\n  export the bundle again, or build the program of the release that wrote it");
    }
}

std::string sha256(const std::string& content) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    if (EVP_Digest(content.data(), content.size(), digest, &size, EVP_sha256(), nullptr) != 1)
        throw Failure("OpenSSL has no SHA-256");
    std::string text;
    for (unsigned int i = 0; i < size; i++) {
        text += "0123456789abcdef"[digest[i] >> 4];
        text += "0123456789abcdef"[digest[i] & 15];
    }
    return text;
}

}  // namespace

std::vector<int64_t> TensorSpec::sized(int64_t batch, int64_t shared) const {
    std::vector<int64_t> sizes = shape;
    std::replace(sizes.begin(), sizes.end(), BATCH, batch);
    std::replace(sizes.begin(), sizes.end(), SHARED, shared);
    return sizes;
}

const TensorSpec& GraphSpec::tensor(const std::string& name) const {
    for (const auto* tensors : {&inputs, &outputs}) {
        for (const TensorSpec& tensor : *tensors) {
            if (tensor.name == name) return tensor;
        }
    }
    throw Failure("the graph " + role + " has no tensor '" + name + "'" + EXPORT_AGAIN);
}

bool GraphSpec::has_input(const std::string& name) const {
    return std::any_of(inputs.begin(), inputs.end(), [&](const TensorSpec& tensor) { return tensor.name == name; });
}

bool GraphSpec::has_output(const std::string& name) const {
    return std::any_of(outputs.begin(), outputs.end(), [&](const TensorSpec& tensor) { return tensor.name == name; });
}

bool GraphSpec::is_state(const std::string& name) const {
    return std::any_of(states.begin(), states.end(), [&](const StateSpec& state) { return state.input == name; });
}

Bundle Bundle::open(const fs::path& path) {
    if (!fs::is_directory(path)) {
        const std::string given = fs::exists(path) ? "' is a file" : "' does not exist";
        throw Failure("'" + path.string() + given + "\n  expected a *.svgb folder; make one with: svg-export ckpt.pt");
    }
    const fs::path file = path / "manifest.json";
    if (!fs::is_regular_file(file)) {
        throw Failure("'" + path.string() + "' is not a bundle: it has no manifest.json\n  make one with: svg-export ckpt.pt");
    }
    if (fs::file_size(file) > MANIFEST_LIMIT) throw Failure("'" + file.string() + "' is too large for a manifest");
    std::vector<std::set<std::string>> names(DEPTH_LIMIT + 2);  // of each table that is being read
    const auto check = [&](int depth, json::parse_event_t event, const json& value) {
        if (depth > DEPTH_LIMIT) throw Failure("'" + file.string() + "' is nested too deeply for a manifest" + EXPORT_AGAIN);
        if (event == json::parse_event_t::object_end) names[depth + 1].clear();
        if (event == json::parse_event_t::key && !names[depth].insert(value).second) {  // readers differ in which one they take
            throw Failure("'" + file.string() + "' is not a valid manifest: it has " + value.dump().substr(0, 40) + " twice" +
                          EXPORT_AGAIN);
        }
        return true;
    };
    const json manifest = json::parse(read_file(file), check, false);
    if (manifest.is_discarded()) throw Failure("'" + file.string() + "' is not valid JSON" + EXPORT_AGAIN);
    check_version(file, manifest);
    try {
        return read_manifest(path, manifest);
    } catch (const Failure& failure) {
        if (failure.code != ERROR) throw;
        const std::string problem = failure.what();
        throw Failure("'" + file.string() + "' is not a valid manifest: " + problem.substr(0, problem.find('\n')) +
                      EXPORT_AGAIN);
    } catch (const json::exception& error) {
        throw Failure("'" + file.string() + "' is not a valid manifest: " + error.what() + EXPORT_AGAIN);
    }
}

const GraphSpec& Bundle::graph(const std::string& role) const {
    const auto found = graphs.find(role);
    if (found == graphs.end()) throw Failure("'" + path.string() + "' has no graph " + role + EXPORT_AGAIN);
    return found->second;
}

std::string Bundle::read_graph(const std::string& role) const {
    const GraphSpec& spec = graph(role);
    const fs::path file = path / spec.file;
    const auto damaged = [&](const std::string& problem) {
        return Failure("the bundle '" + path.string() + "' is damaged:\n  " + spec.file + ": " + problem + EXPORT_AGAIN);
    };
    if (!fs::is_regular_file(file)) throw damaged("missing");
    const fs::path within = fs::relative(fs::canonical(file), fs::canonical(path));
    if (within.empty() || *within.begin() == "..") throw damaged("points outside the bundle");
    const uintmax_t size = fs::file_size(file);
    if (size != spec.bytes) {
        throw damaged(std::to_string(size) + " bytes, the manifest says " + std::to_string(spec.bytes));
    }
    std::string content = read_file(file);
    if (sha256(content) != spec.sha256) throw damaged("changed since export (its SHA-256 is not the manifest's)");
    return content;
}
