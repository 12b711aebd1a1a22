# A formula for a tap of your own (`brew tap-new you/pensieve`, then this file in its Formula folder).
# It builds from the sdist that `python -m build --sdist` writes: put that where the tap's users reach it, and its
# address and `shasum -a 256` below. It names no resources: pip takes the dependencies that the sdist itself declares, so
# that MLX's wheel is the one for the machine. Homebrew's own repository would want each of them named.
class Pensieve < Formula
  desc "Local server that runs many Claude Code sessions on one MLX model"
  homepage "https://example.invalid/pensieve"
  url "https://example.invalid/pensieve-0.1.0.tar.gz"
  sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  license "MIT"

  depends_on arch: :arm64
  depends_on :macos
  depends_on "python@3.13"

  def install
    system Formula["python@3.13"].opt_bin/"python3.13", "-m", "venv", libexec
    system libexec/"bin/python", "-m", "pip", "install", "--no-cache-dir", buildpath
    bin.install_symlink libexec/"bin/pensieve"
    generate_completions_from_executable(bin/"pensieve", "completion", shells: [:bash, :zsh, :fish])
  end

  service do
    run [opt_bin/"pensieve", "serve"]
    keep_alive true
    log_path var/"log/pensieve.log"
    error_log_path var/"log/pensieve.log"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/pensieve --version")
  end
end
