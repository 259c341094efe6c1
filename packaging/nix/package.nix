# keyringd for Nix, from this source tree:
#
#   pkgs.callPackage ./packaging/nix/package.nix { vendorHash = lib.fakeHash; }
#
# vendorHash follows go.sum: nix says what it is where it is another one.
{ lib, buildGoModule, vendorHash, pkg-config, libGL, libxkbcommon, wayland, xorg }:

buildGoModule {
  pname = "keyringd";
  version = "0-unstable";
  src = lib.cleanSource ../..;
  inherit vendorHash;

  nativeBuildInputs = [ pkg-config ];
  buildInputs = [ libGL libxkbcommon wayland ]
    ++ (with xorg; [ libX11 libXcursor libXrandr libXinerama libXi libXxf86vm ]);

  # The Makefile knows which programs are built with cgo, and how.
  buildPhase = ''
    runHook preBuild
    make --no-print-directory core bin/keyring-ui
    runHook postBuild
  '';
  installPhase = ''
    runHook preInstall
    PREFIX=$out DESTDIR= bash scripts/install.sh
    runHook postInstall
  '';
  doCheck = false; # the tests want a TPM simulator, sshd and a message bus

  meta = {
    description = "Keyring daemon: keys in the TPM, ssh-agent, Secret Service, PKCS #11";
    homepage = "https://github.com/keyringd/keyringd";
    license = lib.licenses.mit;
    platforms = lib.platforms.linux;
    mainProgram = "keyringd";
  };
}
