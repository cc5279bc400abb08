#include "fused.h"

#include <algorithm>

#include "failure.h"

namespace {

constexpr int64_t DECODED_AT_ONCE = 64;  // frames: enough for full speed, few enough for any memory

std::vector<int64_t> stacked(int64_t steps, std::vector<int64_t> shape) {
    shape.insert(shape.begin(), steps);
    return shape;
}

bool is_read(const Bundle& bundle, const std::string& name) {
    const auto by = [&](const char* role) { return bundle.has(role) && bundle.graph(role).has_input(name); };
    return by("step") || by("decode");
}

void fill(Ort::Value& buffer, const std::vector<float>& values) {
    if (count(buffer) != static_cast<int64_t>(values.size())) throw Failure("the noise does not fit the graphs");
    std::copy(values.begin(), values.end(), data(buffer));
}

}  // namespace

FusedRollout::FusedRollout(Engine& engine, const Plan& plan, Observer& observer)
    : plan_(plan), step_(engine, "step", plan.samples) {
    const Bundle& bundle = engine.bundle();
    const GraphSpec& spec = step_.spec();
    if (spec.has_input("eps")) eps_ = allocate(stacked(plan.horizon, spec.tensor("eps").sized(plan.samples, plan.samples)));
    for (const TensorSpec& tensor : spec.outputs) {
        const bool decoded = bundle.has("decode") && bundle.graph("decode").has_input(tensor.name);
        if (decoded) decoded_.push_back(tensor.name);
        if (decoded || tensor.name == "frame") {
            shown_.emplace(tensor.name, allocate(stacked(plan.horizon, tensor.sized(plan.samples, plan.samples))));
        }
    }
    if (bundle.has("prime")) bind_prime(engine, observer);
    for (auto* constants : {&observer.conditions, &primed_}) {
        for (auto& [name, value] : *constants) {
            if (spec.has_input(name) && !spec.is_state(name)) step_.input(name, value);
        }
    }
    if (bundle.has("decode")) bind_decode(engine, observer);
}

void FusedRollout::bind_prime(Engine& engine, Observer& observer) {
    prime_.emplace(engine, "prime", plan_.samples);
    const TensorSpec& h_seq = prime_->spec().tensor("h_seq");
    const bool shared = std::find(h_seq.shape.begin(), h_seq.shape.end(), SHARED) != h_seq.shape.end();
    if (!shared) h_seq_ = prime_->allocate_for("h_seq");
    prime_->input("h_seq", shared ? observer.encodings : h_seq_);
    if (prime_->spec().has_input("eps")) {
        eps_prime_ = prime_->allocate_for("eps");
        prime_->input("eps", eps_prime_);
    }
    for (const TensorSpec& tensor : prime_->spec().outputs) {
        if (!step_.spec().is_state(tensor.name) && is_read(engine.bundle(), tensor.name)) {
            prime_->output(tensor.name, primed_.emplace(tensor.name, prime_->allocate_for(tensor.name)).first->second);
        }
    }
}

void FusedRollout::bind_decode(Engine& engine, Observer& observer) {
    decode_.emplace(engine, "decode", plan_.samples);
    for (auto* constants : {&observer.conditions, &primed_}) {
        for (auto& [name, value] : *constants) {
            if (decode_->spec().has_input(name)) decode_->input(name, value);
        }
    }
    frames_ = allocate(stacked(plan_.horizon, decode_->spec().tensor("frame").sized(plan_.samples, 1)));
}

Ort::Value& FusedRollout::run(Observer& observer, const Noise& noise) {
    // 1. Read the context into the states.
    read_context(observer, noise);
    // 2. Start from the last observed frame. What a frame gives to the next one is a state, which is given at first.
    Ort::Value last = observer.encoding(plan_.frames - 1);
    if (step_.spec().is_state("h")) spread(last, step_.state("h"));
    for (auto& [name, value] : observer.conditions) {
        if (step_.spec().is_state(name)) step_.read_once(name, value);
    }
    // 3. Step. The noise and the outputs of a step are parts of the buffers of all steps.
    if (eps_) fill(eps_, noise.future);
    for (int64_t step = 0; step < plan_.horizon; step++) {
        std::vector<Ort::Value> parts;
        if (eps_) step_.input("eps", parts.emplace_back(view(eps_, step, step_.spec().tensor("eps").sized(plan_.samples, 1))));
        for (auto& [name, value] : shown_) {
            step_.output(name, parts.emplace_back(view(value, step, step_.spec().tensor(name).sized(plan_.samples, 1))));
        }
        step_.run();
    }
    if (!decode_) return shown_.at("frame");
    decode();
    return frames_;
}

void FusedRollout::read_context(Observer& observer, const Noise& noise) {
    if (!prime_) {  // step itself reads the frames, each in place of its own last one
        step_.reset();
        for (int64_t frame = 0; frame + 1 < plan_.frames; frame++) {
            Ort::Value h = observer.encoding(frame);
            step_.read_once("h", h);
            step_.run();
        }
        return;
    }
    if (h_seq_) spread(observer.encodings, h_seq_);
    if (eps_prime_) fill(eps_prime_, noise.context);
    for (const StateSpec& state : step_.spec().states) {
        const auto& outputs = prime_->spec().outputs;
        const bool primed =
            std::any_of(outputs.begin(), outputs.end(), [&](const auto& tensor) { return tensor.name == state.input; });
        if (primed) prime_->output(state.input, step_.state(state.input));
    }
    prime_->run();
}

void FusedRollout::decode() {
    const int64_t at_once = std::max<int64_t>(1, DECODED_AT_ONCE / plan_.samples);
    for (int64_t first = 0; first < plan_.horizon; first += at_once) {
        const int64_t batch = std::min(at_once, plan_.horizon - first) * plan_.samples;
        std::vector<Ort::Value> parts;  // the steps lie one after another: together they are one batch
        for (const std::string& name : decoded_) {
            decode_->input(name,
                           parts.emplace_back(view(shown_.at(name), first, decode_->spec().tensor(name).sized(batch, batch))));
        }
        decode_->output("frame", parts.emplace_back(view(frames_, first, decode_->spec().tensor("frame").sized(batch, batch))));
        decode_->run();
    }
}
