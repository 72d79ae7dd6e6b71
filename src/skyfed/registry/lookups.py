"""Lookup values that a new registry starts with (registry digest 2.3): countries and kinds of service."""

import msgspec

_COUNTRIES = """\
AD:Andorra; AE:United Arab Emirates; AF:Afghanistan; AG:Antigua and Barbuda; AI:Anguilla; AL:Albania; AM:Armenia;
AO:Angola; AQ:Antarctica; AR:Argentina; AS:American Samoa; AT:Austria; AU:Australia; AW:Aruba; AX:Åland Islands;
AZ:Azerbaijan; BA:Bosnia and Herzegovina; BB:Barbados; BD:Bangladesh; BE:Belgium; BF:Burkina Faso; BG:Bulgaria;
BH:Bahrain; BI:Burundi; BJ:Benin; BL:Saint Barthelemy; BM:Bermuda; BN:Brunei; BO:Bolivia; BQ:Caribbean NL;
BR:Brazil; BS:Bahamas; BT:Bhutan; BV:Bouvet Island; BW:Botswana; BY:Belarus; BZ:Belize; CA:Canada;
CC:Cocos (Keeling) Islands; CD:Democratic Republic of the Congo; CF:Central African Republic;
CG:Republic of the Congo; CH:Switzerland; CI:Ivory Coast; CK:Cook Islands; CL:Chile; CM:Cameroon; CN:China;
CO:Colombia; CR:Costa Rica; CU:Cuba; CV:Cape Verde; CW:Curaçao; CX:Christmas Island; CY:Cyprus; CZ:Czech Republic;
DE:Germany; DJ:Djibouti; DK:Denmark; DM:Dominica; DO:Dominican Republic; DZ:Algeria; EC:Ecuador; EE:Estonia;
EG:Egypt; EH:Western Sahara; ER:Eritrea; ES:Spain; ET:Ethiopia; FI:Finland; FJ:Fiji; FK:Falkland Islands;
FM:Micronesia; FO:Faroe Islands; FR:France; GA:Gabon; GB:United Kingdom; GD:Grenada; GE:Georgia; GF:French Guiana;
GG:Guernsey; GH:Ghana; GI:Gibraltar; GL:Greenland; GM:Gambia; GN:Guinea; GP:Guadeloupe; GQ:Equatorial Guinea;
GR:Greece; GS:South Georgia and the South Sandwich Islands; GT:Guatemala; GU:Guam; GW:Guinea-Bissau; GY:Guyana;
HK:Hong Kong; HM:Heard Island and McDonald Islands; HN:Honduras; HR:Croatia; HT:Haiti; HU:Hungary; ID:Indonesia;
IE:Ireland; IL:Israel; IM:Isle of Man; IN:India; IO:British Indian Ocean Territory; IQ:Iraq; IR:Iran; IS:Iceland;
IT:Italy; JE:Jersey; JM:Jamaica; JO:Jordan; JP:Japan; KE:Kenya; KG:Kyrgyzstan; KH:Cambodia; KI:Kiribati; KM:Comoros;
KN:Saint Kitts and Nevis; KP:North Korea; KR:South Korea; KW:Kuwait; KY:Cayman Islands; KZ:Kazakhstan; LA:Laos;
LB:Lebanon; LC:Saint Lucia; LI:Liechtenstein; LK:Sri Lanka; LR:Liberia; LS:Lesotho; LT:Lithuania; LU:Luxembourg;
LV:Latvia; LY:Libya; MA:Morocco; MC:Monaco; MD:Moldova; ME:Montenegro; MF:Saint Martin; MG:Madagascar;
MH:Marshall Islands; MK:North Macedonia; ML:Mali; MM:Myanmar; MN:Mongolia; MO:Macau; MP:Northern Mariana Islands;
MQ:Martinique; MR:Mauritania; MS:Montserrat; MT:Malta; MU:Mauritius; MV:Maldives; MW:Malawi; MX:Mexico; MY:Malaysia;
MZ:Mozambique; NA:Namibia; NC:New Caledonia; NE:Niger; NF:Norfolk Island; NG:Nigeria; NI:Nicaragua; NL:Netherlands;
NO:Norway; NP:Nepal; NR:Nauru; NU:Niue; NZ:New Zealand; OM:Oman; PA:Panama; PE:Peru; PF:French Polynesia;
PG:Papua New Guinea; PH:Philippines; PK:Pakistan; PL:Poland; PM:Saint Pierre and Miquelon; PN:Pitcairn Islands;
PR:Puerto Rico; PS:Palestine; PT:Portugal; PW:Palau; PY:Paraguay; QA:Qatar; RE:Réunion; RO:Romania; RS:Serbia;
RU:Russia; RW:Rwanda; SA:Saudi Arabia; SB:Solomon Islands; SC:Seychelles; SD:Sudan; SE:Sweden; SG:Singapore;
SH:Saint Helena; SI:Slovenia; SJ:Svalbard and Jan Mayen; SK:Slovakia; SL:Sierra Leone; SM:San Marino; SN:Senegal;
SO:Somalia; SR:Suriname; SS:South Sudan; ST:Sao Tome and Principe; SV:El Salvador; SX:Sint Maarten; SY:Syria;
SZ:Eswatini; TC:Turks and Caicos Islands; TD:Chad; TF:French Southern Territories; TG:Togo; TH:Thailand; TJ:Tajikistan;
TK:Tokelau; TL:Timor-Leste; TM:Turkmenistan; TN:Tunisia; TO:Tonga; TR:Turkey; TT:Trinidad and Tobago; TV:Tuvalu;
TW:Taiwan; TZ:Tanzania; UA:Ukraine; UG:Uganda; UM:US minor outlying islands; US:United States of America;
UY:Uruguay; UZ:Uzbekistan; VA:Holy See; VC:Saint Vincent and the Grenadines; VE:Venezuela;
VG:British Virgin Islands; VI:US Virgin Islands; VN:Vietnam; VU:Vanuatu; WF:Wallis and Futuna; WS:Samoa; YE:Yemen;
YT:Mayotte; ZA:South Africa; ZM:Zambia; ZW:Zimbabwe
"""

COUNTRIES: dict[str, str] = {
    code: name
    for code, _, name in (entry.partition(":") for entry in " ".join(_COUNTRIES.split("\n")).strip().split("; "))
}
"""ISO 3166-1 alpha-2 code → English name."""


def country(text: str) -> tuple[str, str] | None:
    """Code and name of the country that `text` names by either; None for an unknown one."""
    code = text.upper() if text.upper() in COUNTRIES else _CODES.get(text.casefold(), "")
    return (code, COUNTRIES[code]) if code else None


_CODES = {name.casefold(): code for code, name in COUNTRIES.items()}


class Kind(msgspec.Struct, frozen=True):
    """A kind of service. With `monitoring_exception` it may be in production without being monitored (digest 3.1)."""

    name: str
    description: str
    monitoring_exception: bool = False


SERVICE_TYPES: tuple[Kind, ...] = (
    Kind(
        "eu.egi.cloud.vm-management.occi",
        "OCCI endpoint of a cloud site. URL: https://host:port/path?image=OS_TPL&resource=RESOURCE_TPL; "
        "monitoring reads the query, clients strip it.",
    ),
    Kind("eu.egi.cloud.storage-management.cdmi", "CDMI endpoint of a cloud site. URL with port."),
    Kind(
        "eu.egi.cloud.accounting",
        "Host that sends a cloud site's usage records; its HOSTDN is the name its messages are signed with.",
    ),
    Kind("eu.egi.cloud.information.bdii", "LDAP server with a cloud site's GLUE2 entries."),
    Kind("eu.egi.cloud.vm-metadata.marketplace", "Marketplace of signed image metadata."),
    Kind(
        "eu.egi.cloud.vm-metadata.vmcatcher",
        "Host that subscribes to image lists and brings images to a site.",
    ),
    Kind("eu.egi.cloud.vm-metadata.appdb-vmcaster", "Publisher of image lists."),
    Kind("eu.egi.cloud.broker.compss", "COMPSs cloud broker."),
    Kind("eu.egi.cloud.broker.vmdirac", "VMDIRAC cloud broker."),
    Kind("eu.egi.cloud.broker.proprietary.slipstream", "SlipStream cloud broker."),
    Kind("org.openstack.nova", "OpenStack compute. URL of the Keystone service: https://host:port/v3"),
    Kind("org.openstack.swift", "OpenStack object storage. URL of the Keystone service."),
    Kind("org.openstack.horizon", "OpenStack dashboard."),
    Kind("Site-BDII", "Information server of a site."),
    Kind("Top-BDII", "Information server of the whole federation."),
    Kind("VOMS", "Attribute authority and membership service of virtual organisations.", monitoring_exception=True),
    Kind("MyProxy", "Credential store for long-running work."),
    Kind("emi.ARGUS", "Authorisation service.", monitoring_exception=True),
    Kind("APEL", "Host that sends usage records of batch systems."),
    Kind("gLite-APEL", "Host that sends usage records of batch systems, by its certificate's name."),
    Kind("egi.Perun", "Membership and group service."),
    Kind("egi.GOCDB", "Service registry."),
    Kind("egi.SAM", "Monitoring of the federation."),
    Kind("ngi.SAM", "Monitoring of an NGI."),
    Kind("vo.SAM", "Monitoring of a virtual organisation."),
    Kind("site.SAM", "Monitoring of a site."),
    Kind("egi.MSGBroker", "Message broker."),
    Kind("egi.AppDB", "Catalogue of applications and images."),
    Kind("egi.APELRepository", "Repository of usage records."),
    Kind("egi.AccountingPortal", "Views on usage summaries."),
    Kind("egi.OpsPortal", "Operations portal."),
    Kind("egi.GGUS", "Helpdesk."),
    Kind("egi.MetricsPortal", "Metrics portal."),
    Kind("egi.Portal", "Web portal."),
    Kind("egi.aai.saml", "Login by SAML."),
    Kind("egi.aai.oidc", "Login by OpenID Connect."),
    Kind("egi.aai.tts", "Token translation."),
    Kind("argo.poem", "Profiles of monitoring probes."),
    Kind("argo.mon", "Monitoring engine."),
    Kind("argo.consumer", "Consumer of monitoring results."),
    Kind("argo.computeengine", "Availability computation."),
    Kind("argo.api", "Monitoring results for programs."),
    Kind("argo.webui", "Monitoring results for people."),
    Kind("org.squid-cache.Squid", "HTTP cache.", monitoring_exception=True),
)
