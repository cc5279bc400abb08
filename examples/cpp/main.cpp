// Forecasts video with a bundle: reads the observed frames, writes sampled futures. See README.md.
#include <getopt.h>

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <random>
#include <thread>

#include "failure.h"
#include "files.h"
#include "forecast.h"

namespace {

const char* const HELP =
    R"(usage: svg_forecast [options] BUNDLE FRAMES...

Forecasts video with the ONNX graphs of a bundle, a *.svgb folder.

FRAMES are the observed frames, oldest first, at the model's size: PGM or PPM pictures; or one .npy file of shape
(frames, height, width, channels), float32 from 0 to 1 or uint8; or one other file, with such float32 numbers alone.

  --out FILE            where the futures are written (futures.npy), as (samples, horizon, height, width, channels)
  --mosaic FILE         also write them as one PGM or PPM picture, a row for each sample
  --samples N           futures (8)
  --horizon N           frames per future (10)
  --context MODE        what is read: window, the last frames, or stream, all frames (as the bundle says)
  --seed N              of the noise (0)
  --noise FILE          noise of the future in place of drawn one, .npy or float32: (horizon, samples, z_dim)
  --context-noise FILE  noise of the context: (draws, samples, z_dim)
  --threads N           CPU threads, at most 256 (one per core)
  --repeat N            forecast N more times, and print the median time
  --help                show this
)";

constexpr int64_t COUNT_LIMIT = 65536, THREAD_LIMIT = 256, NUMBER_LIMIT = 2147483647;

struct Options {
    std::string bundle, out = "futures.npy", mosaic, context, noise, context_noise;
    std::vector<std::string> frames;
    int64_t samples = 8, horizon = 10, seed = 0, repeat = 0;
    int64_t threads = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, THREAD_LIMIT);
};

struct Number {
    int64_t *value, low, high;
};

int64_t parse_number(const std::string& name, const char* given, int64_t low, int64_t high) {
    char* end = nullptr;
    errno = 0;
    const int64_t value = std::strtoll(given, &end, 10);
    if (*given == '\0' || *end != '\0' || errno != 0 || value < low || value > high) {
        throw Failure("--" + name + " is '" + given + "'\n  expected a whole number from " + std::to_string(low) + " to " +
                          std::to_string(high),
                      USAGE);
    }
    return value;
}

// The option that getopt_long did not take. It says which letter that was, or nothing of a long option, which it has passed.
std::string refused_option(char** argv) {
    const auto letter = static_cast<unsigned char>(optopt);
    if (letter == '\0' || letter == 'h') return argv[optind - 1];  // h: --help=VALUE
    return std::string("-") + (std::isprint(letter) != 0 ? static_cast<char>(letter) : '?');
}

Options parse(int argc, char** argv) {
    Options options;
    const std::map<std::string, std::string*> texts = {
        {"out", &options.out},
        {"mosaic", &options.mosaic},
        {"context", &options.context},
        {"noise", &options.noise},
        {"context-noise", &options.context_noise},
    };
    const std::map<std::string, Number> numbers = {
        {"samples", {&options.samples, 1, COUNT_LIMIT}},
        {"horizon", {&options.horizon, 1, COUNT_LIMIT}},
        {"seed", {&options.seed, 0, NUMBER_LIMIT}},
        {"threads", {&options.threads, 1, THREAD_LIMIT}},
        {"repeat", {&options.repeat, 0, NUMBER_LIMIT}},
    };
    std::vector<option> known;
    for (const auto& [name, value] : texts) known.push_back({name.c_str(), required_argument, nullptr, 0});
    for (const auto& [name, value] : numbers) known.push_back({name.c_str(), required_argument, nullptr, 0});
    known.push_back({"help", no_argument, nullptr, 'h'});
    known.push_back({nullptr, 0, nullptr, 0});
    opterr = 0;
    int index = 0;
    for (int found; (found = getopt_long(argc, argv, ":h", known.data(), &index)) != -1;) {
        if (found == 'h') {
            std::cout << HELP;
            std::exit(OK);
        }
        if (found == ':')
            throw Failure(std::string("the value of '") + argv[optind - 1] + "' is missing\n  see: svg_forecast --help", USAGE);
        if (found == '?') throw Failure("unknown option '" + refused_option(argv) + "'\n  see: svg_forecast --help", USAGE);
        const std::string name = known[index].name;
        if (const auto text = texts.find(name); text != texts.end()) *text->second = optarg;
        if (const auto number = numbers.find(name); number != numbers.end()) {
            const auto [value, low, high] = number->second;
            *value = parse_number(name, optarg, low, high);
        }
    }
    if (argc - optind < 2)
        throw Failure("the bundle or the frames are missing\n  expected: svg_forecast [options] BUNDLE FRAMES...", USAGE);
    if (!options.context.empty() && options.context != "window" && options.context != "stream") {
        throw Failure("--context is '" + options.context + "'\n  expected window or stream", USAGE);
    }
    options.bundle = argv[optind];
    options.frames.assign(argv + optind + 1, argv + argc);
    return options;
}

// Refuses an output that would overwrite an input, the other output or a part of the bundle.
void check_outputs(const Options& options) {
    namespace fs = std::filesystem;
    std::vector<fs::path> used;
    for (const std::string& file : options.frames) used.push_back(place_of(file));
    for (const std::string& file : {options.noise, options.context_noise}) {
        if (!file.empty()) used.push_back(place_of(file));
    }
    const fs::path bundle = fs::canonical(options.bundle);
    for (const auto& [name, file] : {std::pair{"--out", options.out}, std::pair{"--mosaic", options.mosaic}}) {
        if (file.empty()) continue;
        const fs::path target = place_of(file);
        const bool inside = std::mismatch(bundle.begin(), bundle.end(), target.begin(), target.end()).first == bundle.end();
        if (inside || std::find(used.begin(), used.end(), target) != used.end()) {
            throw Failure(std::string(name) + " would overwrite '" + file + "', which this command uses\n  choose another file",
                          USAGE);
        }
        used.push_back(target);
    }
}

bool is_picture(const std::string& file) {
    const std::string end = file.substr(std::max<size_t>(file.size(), 4) - 4);
    return end == ".pgm" || end == ".ppm";
}

// Returns frames (T, H, W, C), checked.
Array read_frames(const Options& options, const Bundle& bundle) {
    Array frames{{0, bundle.height, bundle.width, bundle.channels}, {}};
    if (is_picture(options.frames.at(0))) {
        for (const std::string& file : options.frames) {
            const std::vector<float> picture = read_picture(file, bundle.height, bundle.width, bundle.channels);
            frames.values.insert(frames.values.end(), picture.begin(), picture.end());
        }
        frames.shape[0] = static_cast<int64_t>(options.frames.size());
    } else if (options.frames.size() == 1) {
        frames = read_numbers(options.frames[0], {-1, bundle.height, bundle.width, bundle.channels});
    } else {
        throw Failure(
            "'" + options.frames[0] + "' is not the only file\n  expected one file of numbers, or pictures: .pgm, .ppm", USAGE);
    }
    for (float& value : frames.values) {
        if (!(value >= -1e-3F && value <= 1 + 1e-3F)) {  // also true of NaN; resizing may round a little beyond 0 and 1
            throw Failure("'" + options.frames[0] + "' holds the value " + std::to_string(value) +
                          "\n  expected numbers from 0 to 1");
        }
        value = std::min(std::max(value, 0.0F), 1.0F);
    }
    return frames;
}

// Returns the last `count` frames as (count, C, H, W).
std::vector<float> channels_first(const Array& frames, int64_t count) {
    const int64_t pixels = frames.shape[1] * frames.shape[2], channels = frames.shape[3];
    const float* start = frames.values.data() + (frames.shape[0] - count) * pixels * channels;
    std::vector<float> turned(count * pixels * channels);
    for (int64_t i = 0; i < static_cast<int64_t>(turned.size()); i++) {
        const int64_t pixel = i % pixels, channel = i / pixels % channels, frame = i / pixels / channels;
        turned[i] = start[(frame * pixels + pixel) * channels + channel];
    }
    return turned;
}

std::vector<float> make_noise(const std::string& file, const std::vector<int64_t>& shape, std::mt19937_64& generator) {
    if (file.empty()) {
        std::vector<float> values(shape[0] * shape[1] * shape[2]);
        std::normal_distribution<float> normal;
        std::generate(values.begin(), values.end(), [&] { return normal(generator); });
        return values;
    }
    Array noise = read_numbers(file, shape);
    const bool finite = std::all_of(noise.values.begin(), noise.values.end(), [](float value) { return std::isfinite(value); });
    if (!finite) throw Failure("'" + file + "' contains values that are not finite", USAGE);
    return noise.values;
}

// Returns (samples, horizon, H, W, C) of (horizon, futures, C, H, W). A deterministic model has one future for all samples.
Array arrange(const Bundle& bundle, const Options& options, Ort::Value& frames) {
    const int64_t futures = shape_of(frames).at(1), pixels = bundle.height * bundle.width, channels = bundle.channels;
    Array arranged{{options.samples, options.horizon, bundle.height, bundle.width, channels}, {}};
    arranged.values.resize(options.samples * options.horizon * pixels * channels);
    const float* from = data(frames);
    for (int64_t i = 0; i < static_cast<int64_t>(arranged.values.size()); i++) {
        const int64_t channel = i % channels, pixel = i / channels % pixels, step = i / channels / pixels % options.horizon;
        const int64_t future = futures == 1 ? 0 : i / channels / pixels / options.horizon;
        arranged.values[i] = from[((step * futures + future) * channels + channel) * pixels + pixel];
        if (!std::isfinite(arranged.values[i]))
            throw Failure("the forecast contains values that are not finite\n  export the bundle again");
    }
    return arranged;
}

void print_median_time(Rollout& rollout, Observer& observer, const Noise& noise, int64_t repeat) {
    std::vector<double> milliseconds;
    for (int64_t i = 0; i < repeat; i++) {
        const auto start = std::chrono::steady_clock::now();
        rollout.run(observer, noise);
        milliseconds.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    std::nth_element(milliseconds.begin(), milliseconds.begin() + repeat / 2, milliseconds.end());
    std::cout << "median of " << repeat << " forecasts: " << milliseconds[repeat / 2] << " ms\n";
}

void run(const Options& options) {
    const Bundle bundle = Bundle::open(options.bundle);
    check_outputs(options);
    const Array frames = read_frames(options, bundle);
    const Plan plan = Plan::choose(bundle, options.context, frames.shape[0], options.samples, options.horizon);
    std::mt19937_64 generator(options.seed);
    Noise noise;
    noise.context = make_noise(options.context_noise, {plan.context_draws(bundle), options.samples, bundle.z_dim}, generator);
    noise.future = make_noise(options.noise, {options.horizon, options.samples, bundle.z_dim}, generator);
    Engine engine(bundle, static_cast<int>(options.threads));
    Observer observer(engine, plan.frames);
    const auto rollout = Rollout::make(engine, plan, observer);
    observer.read(channels_first(frames, plan.frames));
    const Array futures = arrange(bundle, options, rollout->run(observer, noise));
    write_numbers(options.out, futures);
    std::cout << options.samples << " futures of " << options.horizon << " frames: " << options.out << "\n";
    if (!options.mosaic.empty()) write_mosaic(options.mosaic, futures);
    if (options.repeat > 0) print_median_time(*rollout, observer, noise, options.repeat);
}

}  // namespace

int main(int argc, char** argv) {
    setenv("ORT_DISABLE_TELEMETRY", "1", 1);  // otherwise ONNX Runtime may report to Microsoft
    try {
        run(parse(argc, argv));
        return OK;
    } catch (const Failure& failure) {
        std::cerr << "error: " << failure.what() << "\n";
        return failure.code;
    } catch (const Ort::Exception& error) {
        std::cerr << "error: ONNX Runtime failed: " << error.what() << "\n";
    } catch (const std::bad_alloc&) {
        std::cerr << "error: out of memory\n  lower --samples and --horizon\n";
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "\n";
    }
    return ERROR;
}
