# A NixOS module that gives keyringd to every user:
#
#   imports = [ ./keyringd/packaging/nix/module.nix ];
#   services.keyringd = {
#     enable = true;
#     package = pkgs.callPackage ./keyringd/packaging/nix/package.nix { vendorHash = "sha256-..."; };
#     ssh = true;
#   };
{ config, lib, pkgs, ... }:

let
  cfg = config.services.keyringd;
in
{
  options.services.keyringd = {
    enable = lib.mkEnableOption "keyringd, the keyring daemon, for every user";
    package = lib.mkOption {
      type = lib.types.package;
      description = "The package to use, made by package.nix beside this file.";
    };
    ssh = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether ssh asks keyringd. Turn off programs.ssh.startAgent and gnupg's ssh support with it.";
    };
    secrets = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether keyringd is the Secret Service. Turn off services.gnome.gnome-keyring with it.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    systemd.packages = [ cfg.package ];
    systemd.user.sockets.keyringd-ssh.wantedBy = [ "sockets.target" ];
    systemd.user.sockets.keyringd-pkcs11.wantedBy = [ "sockets.target" ];
    systemd.user.sockets.keyringd-control = lib.mkIf cfg.secrets { wantedBy = [ "sockets.target" ]; };
    services.dbus.packages = [ cfg.package ] ++ lib.optional cfg.secrets
      (pkgs.runCommand "keyringd-secrets" { } ''
        mkdir -p $out/share
        ln -s ${cfg.package}/share/keyringd/dbus-1 $out/share/dbus-1
      '');
    security.tpm2.enable = lib.mkDefault true;
    environment.extraInit = lib.mkIf cfg.ssh ''
      if [ -z "$SSH_AUTH_SOCK" ] && [ -n "$XDG_RUNTIME_DIR" ]; then
        export SSH_AUTH_SOCK="$XDG_RUNTIME_DIR/keyringd/ssh"
      fi
    '';
  };
}
