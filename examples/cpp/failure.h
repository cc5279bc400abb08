// What can be expected to go wrong, with the exit codes of the svg-* commands.
#pragma once

#include <stdexcept>
#include <string>

enum ExitCode { OK = 0, ERROR = 1, USAGE = 2, BACKEND_MISSING = 4 };

// The message says what was given, what was expected and what to do next.
struct Failure : std::runtime_error {
    explicit Failure(const std::string& message, ExitCode code = ERROR) : std::runtime_error(message), code(code) {}
    ExitCode code;
};
