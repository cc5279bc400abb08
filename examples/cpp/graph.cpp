#include "graph.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <utility>

#include "failure.h"

namespace {

// A tensor as the ONNX file declares it, in the words of the manifest.
TensorSpec declared(const Ort::Session& session, size_t index, bool is_input) {
    Ort::AllocatorWithDefaultOptions allocator;
    const auto name =
        is_input ? session.GetInputNameAllocated(index, allocator) : session.GetOutputNameAllocated(index, allocator);
    const Ort::TypeInfo type = is_input ? session.GetInputTypeInfo(index) : session.GetOutputTypeInfo(index);
    if (type.GetONNXType() != ONNX_TYPE_TENSOR) return {std::string(name.get()) + " (not a tensor)", {}};
    const auto info = type.GetTensorTypeAndShapeInfo();
    TensorSpec tensor{name.get(), info.GetShape()};
    std::vector<const char*> symbols(tensor.shape.size());
    info.GetSymbolicDimensions(symbols.data(), symbols.size());
    for (size_t axis = 0; axis < symbols.size(); axis++) {
        if (tensor.shape[axis] < 0) tensor.shape[axis] = std::strcmp(symbols[axis], "cond_batch") == 0 ? SHARED : BATCH;
    }
    const bool is_float = info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    if (!is_float) tensor.name += " (not float32)";
    return tensor;
}

bool is_as_promised(const Ort::Session& session, const std::vector<TensorSpec>& promised, bool is_input) {
    if (promised.size() != (is_input ? session.GetInputCount() : session.GetOutputCount())) return false;
    for (size_t index = 0; index < promised.size(); index++) {
        const TensorSpec tensor = declared(session, index, is_input);
        if (tensor.name != promised[index].name || tensor.shape != promised[index].shape) return false;
    }
    return true;
}

// What no hash can tell: that the manifest describes this graph, and that the graph belongs to this bundle.
void check(const Ort::Session& session, const Bundle& bundle, const GraphSpec& spec) {
    const auto wrong = [&](const std::string& problem) {
        return Failure("the bundle '" + bundle.path.string() + "' is damaged:\n  " + spec.file + ": " + problem +
                       "\n  export the bundle again with: svg-export ckpt.pt");
    };
    if (!is_as_promised(session, spec.inputs, true)) throw wrong("its inputs are not those of the manifest");
    if (!is_as_promised(session, spec.outputs, false)) throw wrong("its outputs are not those of the manifest");
    Ort::AllocatorWithDefaultOptions allocator;
    const Ort::ModelMetadata metadata = session.GetModelMetadata();
    for (const auto& [key, value] : {std::pair{"svg_bundle_id", bundle.id}, std::pair{"svg_graph", spec.role}}) {
        const auto stamp = metadata.LookupCustomMetadataMapAllocated(key, allocator);
        if (!stamp || stamp.get() != value) throw wrong("belongs to another bundle or graph");
    }
}

// Before this, nothing of Ort may be made, nor destroyed.
Ort::Env open_environment() {
    const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (api == nullptr) {
        throw Failure(std::string("the library is ONNX Runtime ") + OrtGetApiBase()->GetVersionString() +
                          ", older than the headers\n  expected at least 1." + std::to_string(ORT_API_VERSION),
                      BACKEND_MISSING);
    }
    Ort::InitApi(api);
    return Ort::Env(ORT_LOGGING_LEVEL_ERROR, "svg_forecast");
}

}  // namespace

Engine::Engine(const Bundle& bundle, int threads) : bundle_(bundle), env_(open_environment()) {
    options_.SetIntraOpNumThreads(threads);
    // Each session has threads of its own, which wait for work by spinning: they stop when a run ends, for the next graph.
    options_.AddConfigEntry("session.intra_op.allow_spinning", "1");
    options_.AddConfigEntry("session.force_spinning_stop", "1");
}

Ort::Session& Engine::session(const std::string& role) {
    const auto found = sessions_.find(role);
    if (found != sessions_.end()) return found->second;
    const std::string content = bundle_.read_graph(role);
    Ort::Session session(env_, content.data(), content.size(), options_);
    check(session, bundle_, bundle_.graph(role));
    return sessions_.emplace(role, std::move(session)).first->second;
}

Ort::Value allocate(const std::vector<int64_t>& shape) {
    Ort::AllocatorWithDefaultOptions allocator;
    return Ort::Value::CreateTensor<float>(allocator, shape.data(), shape.size());
}

Ort::Value view(Ort::Value& whole, int64_t index, const std::vector<int64_t>& shape) {
    const int64_t row = count(whole) / shape_of(whole).at(0);
    const int64_t size = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    if (index < 0 || index * row + size > count(whole)) throw Failure("a part lies outside its tensor");
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return Ort::Value::CreateTensor<float>(memory, data(whole) + index * row, size, shape.data(), shape.size());
}

std::vector<int64_t> shape_of(const Ort::Value& value) { return value.GetTensorTypeAndShapeInfo().GetShape(); }

int64_t count(const Ort::Value& value) { return static_cast<int64_t>(value.GetTensorTypeAndShapeInfo().GetElementCount()); }

float* data(Ort::Value& value) { return value.GetTensorMutableData<float>(); }

void spread(Ort::Value& one, Ort::Value& all) {
    const std::vector<int64_t> from = shape_of(one), to = shape_of(all);
    const auto axis = std::mismatch(from.begin(), from.end(), to.begin(), to.end()).first - from.begin();
    const int64_t times = count(all) / count(one);
    const int64_t outer = std::accumulate(from.begin(), from.begin() + axis, int64_t{1}, std::multiplies<>());
    if (outer * (count(one) / outer) * times != count(all)) throw Failure("a tensor does not fit the batch");
    const int64_t inner = count(one) / outer;
    for (int64_t i = 0; i < outer; i++) {
        for (int64_t copy = 0; copy < times; copy++) {
            std::copy_n(data(one) + i * inner, inner, data(all) + (i * times + copy) * inner);
        }
    }
}

Graph::Graph(Engine& engine, const std::string& role, int64_t batch)
    : spec_(engine.bundle().graph(role)), session_(engine.session(role)), binding_(session_), batch_(batch) {
    for (auto& set : states_) {
        for (const StateSpec& state : spec_.states) set.emplace(state.input, allocate_for(state.input, batch));
    }
    reset();
}

Ort::Value Graph::allocate_for(const std::string& name, int64_t shared) const {
    return allocate(spec_.tensor(name).sized(batch_, shared));
}

void Graph::input(const std::string& name, Ort::Value& value) { binding_.BindInput(name.c_str(), value); }

void Graph::output(const std::string& name, Ort::Value& value) { binding_.BindOutput(name.c_str(), value); }

Ort::Value& Graph::state(const std::string& name) { return states_[current_].at(name); }

void Graph::read_once(const std::string& name, Ort::Value& value) { once_[name] = &value; }

void Graph::reset() {
    for (auto& [name, value] : states_[current_]) std::fill_n(data(value), count(value), 0.0F);
}

void Graph::run() {
    for (const StateSpec& state : spec_.states) {
        const auto once = once_.find(state.input);
        input(state.input, once == once_.end() ? states_[current_].at(state.input) : *once->second);
        output(state.output, states_[1 - current_].at(state.input));
    }
    once_.clear();
    session_.Run(Ort::RunOptions{}, binding_);
    current_ = 1 - current_;
}
