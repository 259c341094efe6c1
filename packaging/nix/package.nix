{ lib, buildGoModule, src, pkg-config, libGL, libxkbcommon, wayland, xorg }:

buildGoModule {
  pname = "keyringd";
  version = "0-unstable";
  inherit src;

  # `nix build` prints the hash that belongs here when go.sum changes.
  vendorHash = lib.fakeHash;

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
