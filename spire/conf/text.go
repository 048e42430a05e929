package conf

const serverText = `# A stock SPIRE server that attests rootvouch VMs.

server {
  trust_domain = {{ quote .Server.TrustDomain.Name }}
  bind_address = {{ quote .Host }}
  bind_port    = "{{ .Port }}"
  data_dir     = {{ quote .Server.DataDir }}

  # Whoever can open this socket controls the trust domain.
  socket_path = {{ quote .Server.Socket }}

    # By default a server accepts one attestation a second from each address, but a
    # fleet of VMs often shares one address.
  ratelimit {
    attestation = false
  }

  # Each launch of a VM has an agent ID of its own, which is never used again.
  prune_attested_nodes_expired_for = "24h"

  experimental {
        # A new agent gets the entries of its node alias only after the server has
        # reloaded its cache: by default up to 5 s later. With events a reload reads
        # only the changes.
    cache_reload_interval = "{{ .Reload }}"
    events_based_cache    = true
  }
}

plugins {
  DataStore "sql" {
    plugin_data {
      database_type     = "sqlite3"
      connection_string = {{ quote .Database }}
    }
  }

  KeyManager "disk" {
    plugin_data {
      keys_path = {{ quote .Keys }}
    }
  }

    # The server's own CA changes every day. VMs are measured with the root above it,
    # whose key is not on this machine.
  UpstreamAuthority "disk" {
    plugin_data {
      cert_file_path   = {{ quote .UpstreamCert }}
      key_file_path    = {{ quote .UpstreamKey }}
      bundle_file_path = {{ quote .Root }}
    }
  }

  # VMs.
  NodeAttestor "amd_sev_snp" {
    plugin_cmd = {{ quote .Server.Plugin }}{{ if .Checksum }}
    plugin_checksum = {{ quote .Checksum }}{{ end }}
    plugin_data {{ "{" }}{{ if .Server.RefvalFiles }}
      refval_files   = {{ list .Server.RefvalFiles }}{{ end }}{{ if .Server.RefvalDir }}
      refval_dir     = {{ quote .Server.RefvalDir }}{{ end }}
      collateral_dir = {{ quote .Server.CollateralDir }}{{ if .Server.AgentPathTemplate }}
      agent_path_template = {{ quote .Server.AgentPathTemplate }}{{ end }}

            # The selectors that entries of "rootvouch spire entries" use. SPIRE stores
            # selectors one by one: to store all takes some milliseconds more.
      selectors = {{ list .Selectors }}
    }
  }

  # The agent on the owner's side.
  NodeAttestor "join_token" {
    plugin_data {}
  }
}
`
