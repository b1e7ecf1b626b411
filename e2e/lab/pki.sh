# shellcheck shell=bash
# Keys, certificates and kubeconfigs of one cluster; sourced by `up` and `node`.
# All are thrown away with the cluster.
PKI=$RUN/pki

newkey() { openssl ecparam -name prime256v1 -genkey -noout -out "$1" 2>/dev/null; }

# cert NAME SUBJECT [SAN]: a key and a certificate signed by the cluster's CA.
cert() {
	local f=$PKI/$1
	newkey "$f.key"
	openssl req -new -key "$f.key" -subj "$2" -out "$f.csr"
	openssl x509 -req -in "$f.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -days 30 \
		-set_serial "0x$(openssl rand -hex 8)" -out "$f.crt" -extfile <(
			echo "keyUsage=digitalSignature"
			echo "extendedKeyUsage=clientAuth,serverAuth"
			[ -z "${3:-}" ] || echo "subjectAltName=$3") 2>/dev/null
	rm "$f.csr"
}

# kubeconfig NAME [FILE]: for the certificate of that name.
kubeconfig() {
	cat >"${2:-$PKI/$1.conf}" <<-END
	apiVersion: v1
	kind: Config
	current-context: lab
	clusters:
	- name: lab
	  cluster: {server: "https://$CP_IP:6443", certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")}
	contexts:
	- {name: lab, context: {cluster: lab, user: $1}}
	users:
	- name: $1
	  user: {client-certificate-data: $(base64 -w0 "$PKI/$1.crt"), client-key-data: $(base64 -w0 "$PKI/$1.key")}
	END
}

make_pki() {
	mkdir -p "$PKI" && chmod 700 "$PKI"
	newkey "$PKI/ca.key"
	openssl req -x509 -new -key "$PKI/ca.key" -days 30 -subj /CN=lab-ca -out "$PKI/ca.crt" \
		-addext keyUsage=critical,keyCertSign,digitalSignature 2>/dev/null
	openssl genrsa -out "$PKI/sa.key" 2048 2>/dev/null
	openssl rsa -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub" 2>/dev/null
	cert apiserver /CN=kube-apiserver "IP:$CP_IP,IP:$API_SVC_IP,IP:127.0.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
	cert apiserver-kubelet /O=system:masters/CN=apiserver-kubelet
	local u
	for u in kube-controller-manager kube-scheduler kube-proxy coredns lab-netpol; do
		cert $u "/CN=system:$u"; kubeconfig $u
	done
	cert admin /O=system:masters/CN=admin
	kubeconfig admin "$KUBECONFIG"; chmod 600 "$KUBECONFIG"
}
