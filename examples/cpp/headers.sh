#!/bin/sh
# Fetches the headers of ONNX Runtime 1.29 into FOLDER, for machines that reach the npm registry and no release archives.
# They come in a package of ONNX Runtime for Unity, unchanged: of its 150 MB only these are kept, and their hashes are checked.
set -eu
folder=${1:?usage: headers.sh FOLDER}
package=com.github.asus4.onnxruntime@0.4.9

are_complete() {
    cd "$folder"
    sha256sum --check --status <<END
acc0cf4b3f28d39339c76770d76164bb7a0637dc89f5fde764b4017b632f6743  onnxruntime_c_api.h
9c63ed5bf0427ddf1c10a99aca0beeec77318ce77d2ea6f7ae76d7d933660f67  onnxruntime_cxx_api.h
c508dbb7d8203003a2584b8712118cb88e5b4ef1e1c7876a9974156fb7489301  onnxruntime_cxx_inline.h
e6c986c9e98583f8113b2c6bc3864814883b806d501cf24da4d239c45753e235  onnxruntime_ep_c_api.h
5ce3b054e798eced8d14f5b86e98692fd33470463f96194ce0700a2d53dd8721  onnxruntime_error_code.h
88b242845d25981633a0bbd1c148e273cf8bfb016ea3f57c4af41a06530f72b0  onnxruntime_float16.h
END
}

mkdir -p "$folder"
if (are_complete 2>/dev/null); then
    exit 0
fi
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
if ! npm pack --silent --pack-destination "$unpacked" "$package" >/dev/null; then
    echo "error: npm cannot fetch $package" >&2
    exit 4
fi
tar -xzf "$unpacked"/*.tgz -C "$unpacked" 'package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers'
cp "$unpacked"/package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers/*.h "$folder"
if ! (are_complete); then
    echo "error: the headers in $package are not those of ONNX Runtime 1.29" >&2
    exit 1
fi
