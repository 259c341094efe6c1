# keyringd for Nix: `nix build`, and a NixOS module that gives it to every user.
#
#   inputs.keyringd.url = "github:keyringd/keyringd";
#   imports = [ inputs.keyringd.nixosModules.default ];
#   services.keyringd.enable = true;
{
  description = "keyring daemon: keys in the TPM, ssh-agent, Secret Service, PKCS #11";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      each = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
    in
    {
      packages = each (pkgs: { default = pkgs.callPackage ./packaging/nix/package.nix { src = self; }; });
      nixosModules.default = import ./packaging/nix/module.nix self;
    };
}
