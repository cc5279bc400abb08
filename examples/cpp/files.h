// Files: of numbers and pictures, and their bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

struct Array {
    std::vector<int64_t> shape;
    std::vector<float> values;
};

// Where a name leads to. A pipe leads to no file, and keeps its name: <(command) is /dev/fd/63, a link to "pipe:[123]".
std::filesystem::path place_of(const std::filesystem::path& name);

// Returns all bytes of a file. Throws a Failure, like all that follow.
std::string read_file(const std::filesystem::path& file);

// Reads float32 or uint8 (as 0 to 1) from a .npy file, which may come through a pipe, or raw float32 from any other.
// `expected` is the shape, with -1 for a first axis of any length; a last axis of 1 may be missing in the file.
Array read_numbers(const std::filesystem::path& file, const std::vector<int64_t>& expected);

// Reads a PGM or PPM picture as (height, width, channels) from 0 to 1.
std::vector<float> read_picture(const std::filesystem::path& file, int64_t height, int64_t width, int64_t channels);

// Both write beside the file and rename, so that it appears whole or not at all.
void write_numbers(const std::filesystem::path& file, const Array& array);
// A row of pictures for each sample of (samples, horizon, height, width, channels).
void write_mosaic(const std::filesystem::path& file, const Array& futures);
