#include "files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <numeric>
#include <sstream>
#include <string>

#include "failure.h"

namespace fs = std::filesystem;

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers in files are little-endian");

namespace {

int64_t product(const std::vector<int64_t>& shape) {
    int64_t size = 1;
    for (const int64_t length : shape) {
        if (length < 0 || __builtin_mul_overflow(size, length, &size)) return -1;
    }
    return size;
}

std::string text(const std::vector<int64_t>& shape) {
    std::string joined;
    for (const int64_t length : shape) joined += (joined.empty() ? "" : ", ") + (length < 0 ? "N" : std::to_string(length));
    return "(" + joined + (shape.size() == 1 ? ",)" : ")");
}

// The value of a key in the header of a .npy file, which is the text of a Python dictionary.
std::string header_value(const std::string& header, const std::string& key, const char* end) {
    const size_t start = header.find("'" + key + "': ");
    if (start == std::string::npos) return "";
    const size_t first = start + key.size() + 4;
    return header.substr(first, header.find_first_of(end, first) - first);
}

constexpr const char* NPY = "\x93NUMPY";  // what such a file starts with

Array parse_npy(const fs::path& file, const std::string& content) {
    const auto wrong = [&](const std::string& problem) {
        return Failure("'" + file.string() + "' " + problem + "\n  expected float32 or uint8 of numpy.save, in C order");
    };
    const size_t prefix = content.size() > 6 && content[6] == 1 ? 10 : 12;  // version 1 has a shorter length
    if (content.size() < prefix || content.compare(0, 6, NPY) != 0) throw wrong("is not a .npy file");
    uint32_t length = 0;
    std::memcpy(&length, content.data() + 8, prefix - 8);
    if (length > content.size() - prefix) throw wrong("is cut off");
    const std::string header = content.substr(prefix, length);
    Array array;
    std::istringstream sizes(header_value(header, "shape", ")").erase(0, 1));
    for (std::string size; std::getline(sizes, size, ',');) {
        if (size.find_first_of("0123456789") != std::string::npos)
            array.shape.push_back(std::strtoll(size.c_str(), nullptr, 10));
    }
    const std::string type = header_value(header, "descr", ",");
    const bool bytes = type == "'|u1'";
    if (!bytes && type != "'<f4'") throw wrong("holds " + type);
    if (header_value(header, "fortran_order", ",") != "False") throw wrong("is in Fortran order");
    const int64_t size = product(array.shape);
    const size_t left = content.size() - prefix - length;
    if (size < 0 || static_cast<size_t>(size) != left / (bytes ? 1 : 4) || left % (bytes ? 1 : 4) != 0)
        throw wrong("is cut off, or too long");
    array.values.resize(size);
    const char* start = content.data() + prefix + length;
    if (bytes) {
        std::transform(start, start + size, array.values.begin(),
                       [](char byte) { return static_cast<unsigned char>(byte) / 255.0F; });
    } else if (size > 0) {
        std::memcpy(array.values.data(), start, left);
    }
    return array;
}

// A whole number of a PGM or PPM header; moves on to the place behind it.
int64_t header_number(const std::string& content, size_t& at) {
    while (at < content.size() && (std::isspace(static_cast<unsigned char>(content[at])) || content[at] == '#')) {
        at = content[at] == '#' ? std::min(content.find('\n', at), content.size()) : at + 1;
    }
    int64_t value = -1;
    for (; at < content.size() && content[at] >= '0' && content[at] <= '9'; at++) {
        value = std::min<int64_t>(std::max<int64_t>(value, 0) * 10 + (content[at] - '0'), 1000000);
    }
    return value;
}

Failure cannot_write(const fs::path& file, const std::string& reason) {
    return Failure("cannot write '" + file.string() + "': " + reason + "\n  choose another path");
}

// A new, empty file beside another one, of a name that nothing has, with the usual rights.
fs::path make_beside(const fs::path& file) {
    std::string name = file.string() + ".XXXXXX.part";
    const int made = mkstemps(name.data(), 5);
    if (made < 0) throw cannot_write(file, std::strerror(errno));
    const mode_t mask = umask(0);
    umask(mask);
    fchmod(made, 0666 & ~mask);
    close(made);
    return name;
}

// A file is replaced when the new one is whole, at the end of a link as well; a pipe or a device is written into.
void write_beside(const fs::path& name, const std::string& header, const char* body, size_t size) {
    std::error_code missing;
    const fs::path file = fs::is_symlink(name, missing) ? place_of(name) : name;
    const bool direct = fs::exists(file, missing) && !fs::is_regular_file(file, missing) && !fs::is_directory(file, missing);
    const fs::path part = direct ? file : make_beside(file);
    errno = 0;
    std::ofstream stream(part, std::ios::binary);
    stream.write(header.data(), static_cast<std::streamsize>(header.size()));
    stream.write(body, static_cast<std::streamsize>(size));
    stream.close();
    std::error_code renamed;
    const std::string reason = std::strerror(errno);
    if (stream && !direct) fs::rename(part, file, renamed);
    if (!stream || renamed) {
        std::error_code ignored;
        if (!direct) fs::remove(part, ignored);
        throw cannot_write(file, renamed ? renamed.message() : reason);
    }
}

}  // namespace

fs::path place_of(const fs::path& name) {
    std::error_code nowhere;
    const fs::path whole = fs::absolute(name, nowhere);  // otherwise, names of new files would stay as they are spelled
    const fs::path place = fs::weakly_canonical(whole, nowhere);
    return nowhere ? whole : place;
}

std::string read_file(const fs::path& file) {
    if (!fs::exists(file)) throw Failure("no such file: '" + file.string() + "'", USAGE);
    if (fs::is_directory(file)) throw Failure("'" + file.string() + "' is a folder\n  expected a file", USAGE);
    std::ifstream stream(file, std::ios::binary);
    std::string content{std::istreambuf_iterator<char>(stream), {}};
    if (!stream) throw Failure("'" + file.string() + "' cannot be read");
    return content;
}

Array read_numbers(const fs::path& file, const std::vector<int64_t>& expected) {
    const std::string content = read_file(file);
    Array array;
    if (file.extension() == ".npy" || content.compare(0, 6, NPY) == 0) {  // a pipe has no name of its own
        array = parse_npy(file, content);
        const bool lacks_channels = array.shape.size() + 1 == expected.size() && expected.back() == 1;
        if (lacks_channels) array.shape.push_back(1);
        const bool fits =
            array.shape.size() == expected.size() && std::equal(expected.begin(), expected.end(), array.shape.begin(),
                                                                [](int64_t a, int64_t b) { return a < 0 || a == b; });
        if (!fits)
            throw Failure("'" + file.string() + "' has shape " + text(array.shape) + "\n  expected " + text(expected), USAGE);
        return array;
    }
    array.shape = expected;
    const bool open = expected.at(0) < 0;
    const int64_t row = product({expected.begin() + 1, expected.end()});
    const int64_t size = static_cast<int64_t>(content.size() / sizeof(float));
    if (open && row > 0) array.shape[0] = size / row;
    if (content.size() % sizeof(float) != 0 || product(array.shape) != size) {
        throw Failure("'" + file.string() + "' has " + std::to_string(content.size()) + " bytes\n  expected float32 of shape " +
                          text(expected),
                      USAGE);
    }
    array.values.resize(size);
    if (size > 0) std::memcpy(array.values.data(), content.data(), content.size());
    return array;
}

std::vector<float> read_picture(const fs::path& file, int64_t height, int64_t width, int64_t channels) {
    const std::string content = read_file(file), kind = content.substr(0, 2);
    const std::string expected = "\n  expected " + std::to_string(width) + "x" + std::to_string(height) +
                                 (channels == 1 ? " gray (PGM, P5)" : " RGB (PPM, P6)");
    if (kind != "P5" && kind != "P6")
        throw Failure("'" + file.string() + "' is not a binary PGM or PPM picture" + expected, USAGE);
    size_t at = 2;
    const int64_t columns = header_number(content, at), rows = header_number(content, at), largest = header_number(content, at);
    if (columns != width || rows != height || (kind == "P5" ? 1 : 3) != channels) {
        throw Failure("'" + file.string() + "' is " + std::to_string(columns) + "x" + std::to_string(rows) +
                          (kind == "P5" ? " gray" : " RGB") + expected,
                      USAGE);
    }
    at++;  // one white space
    const size_t bytes = largest > 255 ? 2 : 1, size = static_cast<size_t>(height * width * channels);
    if (largest < 1 || largest > 65535 || content.size() < at || content.size() - at < size * bytes) {
        throw Failure("'" + file.string() + "' is cut off, or damaged" + expected);
    }
    std::vector<float> values(size);
    for (size_t i = 0; i < size; i++) {
        const auto byte = [&](size_t place) { return static_cast<unsigned char>(content[at + place]); };
        const int value = bytes == 1 ? byte(i) : byte(2 * i) << 8 | byte(2 * i + 1);
        if (value > largest) throw Failure("'" + file.string() + "' is brighter than its own white" + expected);
        values[i] = static_cast<float>(value) / static_cast<float>(largest);
    }
    return values;
}

void write_numbers(const fs::path& file, const Array& array) {
    std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': " + text(array.shape) + ", }";
    header.append(63 - (header.size() + 10) % 64, ' ').push_back('\n');  // the numbers start at a multiple of 64 bytes
    const std::string start = NPY + std::string{"\x01\x00", 2};
    const std::string length{static_cast<char>(header.size() & 255), static_cast<char>(header.size() >> 8)};
    write_beside(file, start + length + header, reinterpret_cast<const char*>(array.values.data()),
                 array.values.size() * sizeof(float));
}

void write_mosaic(const fs::path& file, const Array& futures) {
    const int64_t samples = futures.shape[0], horizon = futures.shape[1], height = futures.shape[2],
                  line = futures.shape[3] * futures.shape[4];
    std::string pixels(futures.values.size(), '\0');
    for (size_t i = 0; i < pixels.size(); i++) {
        const int64_t in_line = i % line, y = i / line % height, step = i / line / height % horizon,
                      sample = i / line / height / horizon;
        const float value = std::min(std::max(futures.values[i], 0.0F), 1.0F);
        pixels[((sample * height + y) * horizon + step) * line + in_line] = static_cast<char>(std::lround(value * 255));
    }
    const std::string size = std::to_string(horizon * futures.shape[3]) + " " + std::to_string(samples * height);
    write_beside(file, (futures.shape[4] == 1 ? "P5\n" : "P6\n") + size + "\n255\n", pixels.data(), pixels.size());
}
