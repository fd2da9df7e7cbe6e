# Runs once in the image, as root; the result is kept until this file, the image or the library changes.
set -e
python3 -c "import pytest" 2>/dev/null || pip install pytest
packages=$(python3 -c "import sysconfig; print(sysconfig.get_path('purelib'))")
mkdir -p "$packages"
cp -r vendor/tides "$packages/"
